"""A VIDEO as the frames that a model takes: by time, upright, in its size; and photos of any shape as start images."""

from __future__ import annotations

import importlib
import io
import logging
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from cogvideox_core import CogVideoXPipeline
from cogvideox_core.models.config import VAEConfig
from cogvideox_core.models.variants import DERIVED, VARIANTS
from tests.support.counted_videos import MATRICES, Kind, number_of, picture, write_counted, write_pictures
from tests.support.graphs import HEIGHT, WIDTH, image_to_video, loaders, node, save_latent, saved_latent
from tests.support.host import ExecutionFailed, Host
from tests.support.parity import assert_parity

FIVE, LATER = VARIANTS["CogVideoX-5B"], VARIANTS["CogVideoX1.5-5B"]
SIX_SECONDS = [min(i * 30 // 8, 179) for i in range(49)]


@pytest.fixture(scope="module")
def types(pack: ModuleType) -> ModuleType:
    return importlib.import_module(f"{pack.__name__}.nodes.host.types.video")


def from_file(path: Path | io.BytesIO, **window: float) -> Any:
    from comfy_api.latest import InputImpl

    return InputImpl.VideoFromFile(path if isinstance(path, io.BytesIO) else str(path), **window)


def numbers(frames: Tensor) -> list[int]:
    """Of an IMAGE."""
    return [number_of(frame.movedim(-1, 0)) for frame in frames]


def test_a_clip_of_30_fps_is_taken_by_time(types: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    video = from_file(write_counted(tmp_path / "phone.mp4", 180, 30))
    with caplog.at_level(logging.INFO, logger="cogvideox"):
        frames = types.video_frames(video, types.Wanted(), FIVE)
    assert numbers(frames) == SIX_SECONDS and frames.shape == (49, 64, 96, 3)
    assert caplog.messages == ["VIDEO for CogVideoX-5B: 49 frames at 8 fps, the first 6 of 6 seconds"]
    later = types.video_frames(video, types.Wanted(length=81), LATER)
    assert numbers(later) == [min(i * 30 // 16, 179) for i in range(81)]
    assert numbers(types.video_frames(video, types.Wanted(rate="every"), FIVE)) == list(range(49))
    assert numbers(types.video_frames(video, types.Wanted(rate=5.0, length=4), FIVE)) == [0, 6, 12, 18]


def test_a_video_with_too_few_frames_says_how_many_there_are(types: ModuleType, tmp_path: Path) -> None:
    video = from_file(write_counted(tmp_path / "short.mp4", 30, 30))
    told = "the video has 9 frames at 8 fps, the first 1 of 1 seconds for length=17; set length to at most 9, or video_"
    with pytest.raises(ValueError, match=f"{told}fps to 'every'$"):
        types.video_frames(video, types.Wanted(length=17), FIVE)
    with pytest.raises(ValueError, match="the video has 30 frames at 30 fps, .*; set length to at most 30$"):
        types.video_frames(video, types.Wanted(rate="every", length=49), FIVE)


def test_a_clip_of_a_phone_stands_upright_in_the_size_that_is_asked_for(types: ModuleType, tmp_path: Path) -> None:
    laid = np.ascontiguousarray(np.rot90(picture(77, 64, 96)))
    path = write_pictures(tmp_path / "phone.mov", [laid] * 9, 8, matrix=MATRICES["to the right"])
    frames = types.video_frames(from_file(path), types.Wanted(), FIVE)
    assert frames.shape == (9, 96, 64, 3) and numbers(frames) == [77] * 9
    wide = types.video_frames(from_file(path), types.Wanted(width=96, height=48, fit="stretch"), FIVE)
    assert wide.shape == (9, 48, 96, 3) and numbers(wide) == [77] * 9
    assert types.video_frames(from_file(path), types.Wanted(width=96, height=48), FIVE).shape == (9, 48, 96, 3)
    with pytest.raises(ValueError, match="a picture of 64x96 for a video of 96x48: .* set image_fit to 'crop' or 'str"):
        types.video_frames(from_file(path), types.Wanted(width=96, height=48, fit="refuse"), FIVE)


def test_a_trimmed_video_and_one_in_memory_are_read_too(types: ModuleType, tmp_path: Path) -> None:
    path = write_counted(tmp_path / "clip.mp4", 90, 30)
    trimmed = from_file(io.BytesIO(path.read_bytes()), start_time=1.0, duration=1.0)
    assert numbers(types.video_frames(trimmed, types.Wanted(), FIVE)) == [min(30 + i * 30 // 8, 59) for i in range(9)]


def test_a_video_of_frames_is_taken_by_time(types: ModuleType) -> None:
    from comfy_api.latest import InputImpl, Types

    images = torch.stack([torch.from_numpy(picture(number, 96, 64)).float() / 255 for number in range(48)])
    parts = Types.VideoComponents(images=images, frame_rate=Fraction(24))
    video = InputImpl.VideoFromComponents(parts)
    assert numbers(types.video_frames(video, types.Wanted(), FIVE)) == [min(3 * i, 47) for i in range(17)]
    assert numbers(types.video_frames(video, types.Wanted(rate="every", length=5), FIVE)) == list(range(5))
    clear = SimpleNamespace(get_components=lambda: replace(parts, alpha=torch.zeros(48, 64, 96)))
    assert (types.video_frames(clear, types.Wanted(), FIVE) == 1).all()


def test_images_are_cut_and_fitted(types: ModuleType) -> None:
    images = torch.stack([torch.from_numpy(picture(number, 96, 64)).float() / 255 for number in range(20)])
    assert torch.equal(types.image_frames(images, types.Wanted()), images)
    assert numbers(types.image_frames(images, types.Wanted(length=9))) == list(range(9))
    assert types.image_frames(images, types.Wanted(width=48, height=48)).shape == (20, 48, 48, 3)
    clear = torch.cat([images, torch.zeros(20, 64, 96, 1)], dim=-1)
    assert (types.image_frames(clear, types.Wanted()) == 1).all()
    with pytest.raises(ValueError, match="20 frames for length=49; set length to 0 or to what there is"):
        types.image_frames(images, types.Wanted(length=49))


@pytest.mark.parametrize("name", VARIANTS | DERIVED)
def test_a_vae_that_says_so_tells_the_frame_rate(types: ModuleType, name: str) -> None:
    row = (VARIANTS | DERIVED)[name]
    guessed = types.variant_of_vae(replace(row.vae, block_out_channels=(8, 8, 8, 8)))
    assert guessed.defaults.fps == (16 if row.vae.invert_scale_latents else 8)
    assert types.variant_of_vae(VAEConfig(scaling_factor=0.3)).name == "CogVideoX-5B"


# --- Nodes ----------------------------------------------------------------------------------------------------------


def encoded(host: Host, kind: str, video: Path, **widgets: Any) -> Tensor:
    """z of CogVideoX VAE Encode on a file through Load Video."""
    graph = {
        **loaders(kind),
        "video": node("LoadVideo", file=host.upload_image(video, video.name)),
        "encode": node("CogVideoXVAEEncode", video=["video", 0], vae=["vae", 0], tiling="exact", **widgets),
        "save": save_latent("encode"),
    }
    return saved_latent(host, host.run(graph))


@pytest.mark.parametrize(("kind", "fps"), [("CogVideoX-5B", 8), ("CogVideoX1.5-5B", 16)])
@pytest.mark.parametrize("linked", [False, True], ids=["by the VAE", "by the model"])
def test_a_video_is_encoded_at_the_models_rate(
    host: Host, core: Callable[[str], CogVideoXPipeline], toys: dict, tmp_path: Path, kind: str, fps: int, linked: bool
) -> None:
    path = write_counted(tmp_path / f"{kind}.mkv", 33, 32, kind=Kind("ffv1", "bgr0"))
    z = encoded(host, kind, path, **({"model": ["model", 0]} if linked else {}))
    pixels = [picture(min(number * 32 // fps, 32), 96, 64) for number in range(fps + 1)]
    video = torch.from_numpy(np.stack(pixels)).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    assert_parity(z, core(kind).vae.encode(video).mean, 1e-4, "a video through a file and the VAE")
    assert z.shape[2] == fps // 4 + 1


def test_widgets_reach_the_frames(host: Host, toys: dict, tmp_path: Path) -> None:
    path = write_counted(tmp_path / "odd.avi", 40, 30, size=(321, 241))
    sizes = {"width": WIDTH, "height": HEIGHT}
    assert encoded(host, "CogVideoX-5B", path, video_fps="every", length=17, **sizes).shape[2:] == (5, 8, 12)
    with pytest.raises(
        ExecutionFailed, match="width=321; CogVideoX takes multiples of 16 up to 4096; use 320 .set width"
    ):
        encoded(host, "CogVideoX-5B", path)
    graph = {"vae": node("CogVideoXLoadVAE", vae_name="demo"), "encode": node("CogVideoXVAEEncode", vae=["vae", 0])}
    graph |= {"save": save_latent("encode")}
    graph["encode"]["inputs"]["tiling"] = "auto"
    with pytest.raises(ExecutionFailed, match="give either pixels or video to CogVideoX VAE Encode, one of the two"):
        host.run(graph)


@pytest.mark.parametrize("size", [(4000, 3000), (333, 777)])
def test_a_photo_of_any_shape_starts_a_video(host: Host, toys: dict, tmp_path: Path, size: tuple[int, int]) -> None:
    Image.effect_noise(size, 80).convert("RGB").save(tmp_path / "photo.png")
    name = host.upload_image(tmp_path / "photo.png", f"photo-{size[0]}.png")
    graph = image_to_video("CogVideoX-5B-I2V", name, steps=1)
    graph["latent"]["inputs"]["image_fit"] = "crop"
    assert saved_latent(host, host.run(graph)).shape[-2:] == (8, 12)
    graph["latent"]["inputs"]["image_fit"] = "refuse"
    told = f"a picture of {size[0]}x{size[1]} for a video of 96x64: another aspect ratio; .* set image_fit to 'crop' or"
    with pytest.raises(ExecutionFailed, match=told):
        host.run(graph)


def test_a_transparent_image_is_put_on_the_background(host: Host, toys: dict, tmp_path: Path) -> None:
    """Load Image gives colours and mask apart; Join Image with Alpha puts them together again."""
    Image.new("RGBA", (WIDTH, HEIGHT), (10, 200, 30, 0)).save(tmp_path / "logo.png")
    Image.new("RGB", (WIDTH, HEIGHT), "#204060").save(tmp_path / "plain.png")
    logo, plain = (host.upload_image(tmp_path / name, name) for name in ("logo.png", "plain.png"))

    def latents(name: str, **widgets: Any) -> Tensor:
        graph = image_to_video("CogVideoX-5B-I2V", name, steps=1)
        graph["latent"]["inputs"] |= widgets
        if name == logo:
            image = graph["latent"]["inputs"]["start_image"]
            graph["joined"] = node("JoinImageWithAlpha", image=image, alpha=[image[0], 1])
            graph["latent"]["inputs"]["start_image"] = ["joined", 0]
        return saved_latent(host, host.run(graph))

    assert torch.equal(latents(logo, background="#204060"), latents(plain))
    assert not torch.equal(latents(logo), latents(plain))
