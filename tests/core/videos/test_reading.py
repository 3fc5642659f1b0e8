"""The beginning of a file as a tensor: numbered pictures say which frames were read."""

from __future__ import annotations

from pathlib import Path

import av
import pytest
import torch

from cogvideox_core.videos.reading import Part, count_frames, read_clip
from tests.support.counted_videos import KINDS, MATRICES, number_of, numbers_of, picture, write_counted

SIX_SECONDS = [min(i * 30 // 8, 179) for i in range(49)]


@pytest.mark.parametrize("ending", KINDS)
def test_a_clip_of_30_fps_is_read_at_8(ending: str, tmp_path: Path) -> None:
    """Frames 0, 3, 7, 11, ... of 180 are the 49 of a video of six seconds."""
    gif = ending == ".gif"  # it counts hundredths of a second
    path = write_counted(tmp_path / f"clip{ending}", 120 if gif else 180, 20 if gif else 30)
    clip = read_clip(path, fps=8, max_frames=49)
    assert numbers_of(clip.frames) == ([min(i * 20 // 8, 119) for i in range(49)] if gif else SIX_SECONDS)
    assert clip.frames.shape == (1, 3, 49, 64, 96) and clip.fps == 8
    assert count_frames(path, 8) == 49


def test_every_frame_is_read_where_no_rate_is_asked_for(tmp_path: Path) -> None:
    path = write_counted(tmp_path / "clip.mp4", 20, 24)
    clip = read_clip(path)
    assert numbers_of(clip.frames) == list(range(20)) and clip.fps == 24 and count_frames(path) == 20
    assert numbers_of(read_clip(path, max_frames=5).frames) == list(range(5))


def test_times_of_a_variable_rate_decide(tmp_path: Path) -> None:
    """A screen recording: still for a second, then quick."""
    times = [0, 1000, *range(1040, 1400, 40)]
    for name in ("screen.mp4", "screen.mkv"):
        path = write_counted(tmp_path / name, len(times), 25, milliseconds=times)
        clip = read_clip(path, fps=8, max_frames=11)
        wanted = [max(number for number, time in enumerate(times) if time <= 1000 * i / 8) for i in range(11)]
        assert numbers_of(clip.frames) == wanted


def test_what_was_read_is_said(tmp_path: Path) -> None:
    path = write_counted(tmp_path / "clip.mp4", 90, 30)
    clip = read_clip(path, fps=8, max_frames=17)
    assert str(clip) == "17 frames at 8 fps, the first 2.03 of 3 seconds"
    assert str(read_clip(path, max_frames=1)._replace(seconds=None)) == "1 frame at 30 fps, the first 0.0333 seconds"


def test_a_part_of_a_file_is_read(tmp_path: Path) -> None:
    path = write_counted(tmp_path / "clip.mp4", 120, 30)
    clip = read_clip(path, fps=10, part=Part(2.0, 0.5))
    assert numbers_of(clip.frames) == [60, 63, 66, 69, 72, 74]
    assert numbers_of(read_clip(path, part=Part(3.9)).frames) == [117, 118, 119]
    with pytest.raises(ValueError, match="clip.mp4 holds no frame that can be read; give a complete video file"):
        read_clip(path, part=Part(5.0))


def test_only_what_is_made_of_a_frame_is_kept(tmp_path: Path) -> None:
    path = write_counted(tmp_path / "clip.mp4", 3, 8, matrix=MATRICES["to the right"])
    seen = []

    def prepare(frame: torch.Tensor) -> torch.Tensor:
        seen.append(frame.shape)
        return frame[:, :2, :2]

    assert read_clip(path, prepare=prepare).frames.shape == (1, 3, 3, 2, 2)
    assert seen == [(3, 96, 64)] * 3, "it is upright before it is prepared"


def test_a_video_that_changes_its_size_is_told(tmp_path: Path) -> None:
    """As browsers record: an MPEG stream whose second half is smaller."""
    path = tmp_path / "call.ts"
    parts = [write_counted(tmp_path / f"{width}.ts", 5, 25, size=(width, 64), kind=KINDS[".mp4"]) for width in (96, 64)]
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    with av.open(str(path)) as container:
        assert {frame.width for frame in container.decode(video=0)} == {96, 64}
    with pytest.raises(ValueError, match="call.ts changes its size from 96x64 to 64x64; give a video of one size"):
        read_clip(path)
    assert read_clip(path, prepare=lambda frame: frame[:, :8, :8]).frames.shape == (1, 3, 10, 8, 8)


def test_transparent_frames_are_put_on_the_background(tmp_path: Path) -> None:
    import numpy as np

    from tests.support.counted_videos import Kind, write_pictures

    pixels = np.zeros((16, 32, 4), np.uint8)
    path = write_pictures(tmp_path / "a.mov", [pixels] * 2, 8, kind=Kind("png", "rgba"))
    assert (read_clip(path).frames == 1).all()
    assert (read_clip(path, background="black").frames == 0).all()


def test_numbers_are_read_as_they_are_drawn() -> None:
    for number in (0, 1, 85, 170, 255):
        frame = torch.from_numpy(picture(number, 40, 24)).permute(2, 0, 1) / 255
        assert number_of(frame) == number
        with pytest.raises(AssertionError, match="does not stand upright"):
            number_of(frame.flip(2))
