"""`cogvideox inspect`, `convert` and `fit-preview` as they are typed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from cogvideox_core.cli import main as cli
from cogvideox_core.demo import DEMO_LORAS, DEMO_MODEL
from cogvideox_core.videos.preview_colours import read_latent_rgb
from tests.support.hub_cache import add_to_cache

Captured = pytest.CaptureFixture[str]


def test_inspect_prints_each_component_of_each_path(capsys: Captured) -> None:
    assert cli.main(["inspect", str(DEMO_MODEL), str(DEMO_MODEL / "vae")]) == 0
    shown = capsys.readouterr().out
    assert shown.count("a CogVideoX transformer of the build of CogVideoX-5B") == 1
    assert shown.count("a T5 text encoder") == 1
    assert shown.count("a CogVideoX VAE") == 2
    assert shown.count("complete: no key is missing or left over") == 4


def test_convert_writes_the_form_that_is_asked_for(tmp_path: Path, capsys: Captured) -> None:
    target = tmp_path / "int8.safetensors"
    assert cli.main(["convert", str(DEMO_MODEL / "transformer"), str(target), "--to", "int8"]) == 0
    assert capsys.readouterr().out.strip() == str(target)
    assert "transformer_blocks.0.attn1.to_q.weight_scale" in load_file(target)


def test_names_are_inspected_and_converted(
    own_comfyui: Path, own_cache: Path, tmp_path: Path, capsys: Captured
) -> None:
    add_to_cache(own_cache, "zai-org/CogVideoX-5b", DEMO_MODEL)
    (own_comfyui / "models" / "loras").mkdir()
    shutil.copy(DEMO_LORAS["old-film"], own_comfyui / "models" / "loras" / "old.safetensors")
    names = ["zai-org/CogVideoX-5b", str(own_cache / "models--zai-org--CogVideoX-5b"), "old.safetensors"]
    assert cli.main(["inspect", *names]) == 0
    shown = capsys.readouterr().out
    assert shown.count("complete: no key is missing or left over") == 6 and "a LoRA of rank 8" in shown
    target = tmp_path / "vae.safetensors"
    assert cli.main(["convert", "zai-org/CogVideoX-5b/vae", str(target), "--to", "single"]) == 0
    assert load_file(target).keys() == load_file(DEMO_MODEL / "vae" / "diffusion_pytorch_model.safetensors").keys()


def test_convert_refuses_a_form_that_does_not_exist(tmp_path: Path, capsys: Captured) -> None:
    target = tmp_path / "out.safetensors"
    assert cli.main(["convert", str(DEMO_MODEL / "transformer"), str(target), "--to", "zip"]) == 2
    assert "'zip'" in capsys.readouterr().err and not target.exists()


@pytest.mark.slow
def test_fit_preview_writes_colours_next_to_the_vae(tmp_path: Path, capsys: Captured) -> None:
    folder = Path(shutil.copytree(DEMO_MODEL / "vae", tmp_path / "vae"))
    (folder / "latent_rgb.json").unlink()
    assert cli.main(["fit-preview", str(folder)]) == 0
    assert "R^2" in capsys.readouterr().out
    assert len(read_latent_rgb(folder / "latent_rgb.json").factors) == 16


def test_fit_preview_asks_for_the_folder_of_the_vae(capsys: Captured) -> None:
    file = DEMO_MODEL / "vae" / "diffusion_pytorch_model.safetensors"
    assert cli.main(["fit-preview", str(file)]) == 2
    assert "give the folder with the VAE's config.json" in capsys.readouterr().err
