"""The writers by themselves: what they put where, and that the same video makes the same file."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import pytest
import torch
from PIL import Image
from torch import Tensor

from cogvideox_core.videos.film_writers import Target, Writer, gif_file, mp4_file, png_files, webm_file, webp_file

WRITERS = {".mp4": mp4_file, ".webm": webm_file, ".gif": gif_file, ".webp": webp_file}


def written(path: Path, writer: Writer, frames: Tensor, fps: float = 8, **options) -> Path:
    """A file of frames [F, 3, H, W]."""
    with writer(Target(path, frames.shape[2], frames.shape[3], Fraction(fps), **options)) as add:
        for frame in frames:
            add(frame)
    return path


def clip(num_frames: int = 5, height: int = 32, width: int = 48) -> Tensor:
    x = torch.linspace(0, 1, width).expand(3, height, width)
    return torch.stack([(x + index / num_frames) % 1 for index in range(num_frames)])


@pytest.mark.parametrize("ending", [".mp4", ".gif", ".webp"])
def test_the_same_video_makes_the_same_file(tmp_path: Path, ending: str) -> None:
    one, two = (written(tmp_path / f"{name}{ending}", WRITERS[ending], clip()) for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize(("fps", "milliseconds"), [(8, {120, 130}), (16, {60, 70}), (50, {20})])
def test_the_times_of_a_gif_do_not_drift(tmp_path: Path, fps: int, milliseconds: set[int]) -> None:
    path = written(tmp_path / "out.gif", gif_file, clip(16), fps)
    with Image.open(path) as animation:
        assert animation.n_frames == 16
        each = []
        for index in range(16):
            animation.seek(index)
            each.append(animation.info["duration"])
    assert set(each) == milliseconds and sum(each) == pytest.approx(16000 / fps, abs=10)


def test_the_times_of_a_webp_do_not_drift(tmp_path: Path) -> None:
    path = written(tmp_path / "out.webp", webp_file, clip(16), 16)
    with Image.open(path) as animation:
        each = []
        for index in range(16):
            animation.seek(index)
            animation.load()
            each.append(animation.info["duration"])
    assert set(each) == {62, 63} and sum(each) == 1000


@pytest.mark.parametrize(("ending", "codec"), [(".mp4", "h264"), (".webm", "vp9"), (".gif", "gif")])
def test_the_codec_is_one_that_browsers_play(tmp_path: Path, ending: str, codec: str) -> None:
    with av.open(str(written(tmp_path / f"out{ending}", WRITERS[ending], clip()))) as container:
        assert container.streams.video[0].codec_context.name == codec


def test_pictures_are_numbered_from_1_as_their_name_says(tmp_path: Path) -> None:
    folder = written(tmp_path / "folder", png_files, clip(2), name="a%03db.png", tags={"comment": 7})
    assert sorted(file.name for file in folder.iterdir()) == ["a001b.png", "a002b.png"]
    with Image.open(folder / "a002b.png") as picture:
        assert (picture.size, picture.info["comment"]) == ((48, 32), "7")
