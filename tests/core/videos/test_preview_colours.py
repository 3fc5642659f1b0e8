"""Colours of latents: fitted, written, read back, and good enough to see what is going on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from cogvideox_core import load_vae
from cogvideox_core.cli import main as cli
from cogvideox_core.demo import DEMO_MODELS
from cogvideox_core.training.demo_world.world import make_scene, render
from cogvideox_core.videos.preview_colours import FILE_NAME, OFFICIAL_RGB, LatentRGB, latent_rgb_of, write_latent_rgb
from cogvideox_core.videos.video_files import write_video
from cogvideox_core.weights.errors import CheckpointError

GREY = LatentRGB(((0.1, 0.1, 0.1),) * 16, (0.0, 0.0, 0.0))


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    """A copy of a demo model to write into; its weights are links."""
    folder = tmp_path / "demo"
    for path in DEMO_MODELS["text-to-video"].rglob("*"):
        target = folder / path.relative_to(DEMO_MODELS["text-to-video"])
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".safetensors":
            target.symlink_to(path)
        elif path.is_file():
            shutil.copy(path, target)
    return folder


@pytest.mark.parametrize("task", DEMO_MODELS)
def test_the_demo_models_colours_explain_scenes_they_were_not_fitted_to(task: str) -> None:
    rgb, vae = latent_rgb_of(DEMO_MODELS[task]), load_vae(DEMO_MODELS[task], dtype=torch.float32)
    video = torch.stack([render(make_scene(seed)) for seed in range(1000, 1008)]) * 2 - 1
    with torch.no_grad():
        z = vae.encode(video).mode()  # [B, 16, T, h, w]
    shown = torch.einsum("bcthw,cd->bdthw", z, torch.tensor(rgb.factors)) + torch.tensor(rgb.bias).view(1, 3, 1, 1, 1)
    small = torch.nn.functional.avg_pool3d(video, (1, 8, 8))
    wanted = torch.cat([small[:, :, :1], small[:, :, 1:].unflatten(2, (-1, 4)).mean(dim=3)], dim=2)
    unexplained = (shown - wanted).square().sum() / (wanted - wanted.mean((0, 2, 3, 4), keepdim=True)).square().sum()
    assert unexplained < 0.03


def test_colours_are_read_from_the_folder_the_model_lies_in(demo: Path) -> None:
    write_latent_rgb(GREY, demo / "vae", note="mine")
    weights = demo / "transformer" / "diffusion_pytorch_model.safetensors"
    for path in (demo, demo / "transformer", weights):
        assert latent_rgb_of(path) == GREY
    (demo / "vae" / FILE_NAME).unlink()
    assert latent_rgb_of(demo) == OFFICIAL_RGB
    assert latent_rgb_of(DEMO_MODELS["text-to-video"]) != OFFICIAL_RGB


@pytest.mark.parametrize(
    "content",
    ["{", "[]", "{}", '{"latent_rgb_factors": [[1, 2]], "latent_rgb_factors_bias": [0, 0, 0]}',
     '{"latent_rgb_factors": [[1, 2, NaN]], "latent_rgb_factors_bias": [0, 0, 0]}',
     '{"latent_rgb_factors": [], "latent_rgb_factors_bias": [0, 0, 0]}',
     '{"latent_rgb_factors": [[1, 2, 3]], "latent_rgb_factors_bias": [0, 0]}'],
)  # fmt: skip
def test_a_file_without_colours_is_one_sentence(demo: Path, content: str) -> None:
    (demo / "vae" / FILE_NAME).write_text(content)
    with pytest.raises(CheckpointError, match=FILE_NAME) as told:
        latent_rgb_of(demo)
    assert "\n" not in str(told.value)


def test_scaled_colours_are_those_of_larger_latents() -> None:
    z = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    scaled = OFFICIAL_RGB.scaled(0.7)
    torch.testing.assert_close(
        0.7 * z @ torch.tensor(scaled.factors), z @ torch.tensor(OFFICIAL_RGB.factors), atol=1e-5, rtol=1e-5
    )
    assert scaled.bias == OFFICIAL_RGB.bias


def test_the_command_fits_and_writes(demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    videos = []
    for seed in range(3):
        videos.append(str(write_video(tmp_path / f"{seed}.mp4", [render(make_scene(seed))[None]], 8)))
    (demo / "vae" / FILE_NAME).unlink(missing_ok=True)
    assert cli.main(["fit-preview", str(demo), *videos]) == 0
    told = capsys.readouterr().out
    content = json.loads((demo / "vae" / FILE_NAME).read_text())
    assert f"R^2 {content['r_squared']:.3f} over 3 videos" in told and content["fitted_to"] == "3 videos"
    assert content["r_squared"] > 0.95 and latent_rgb_of(demo) != OFFICIAL_RGB


def test_the_command_refuses_in_one_sentence(demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = demo / "vae" / "diffusion_pytorch_model.safetensors"
    lone = tmp_path / "vae.safetensors"
    lone.symlink_to(file)
    for arguments in ([tmp_path / "nothing"], [lone], [demo, tmp_path / "no.mp4"]):
        assert cli.main(["fit-preview", *map(str, arguments)]) == 2
        assert capsys.readouterr().err.strip().count("\n") == 0
