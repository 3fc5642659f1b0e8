"""Real files: what is read of videos and pictures, and what cannot be read."""

from __future__ import annotations

import sys
from pathlib import Path

import av
import pytest
import torch
from PIL import Image
from torch import Tensor

from cogvideox_core.videos.video_files import write_video
from cogvideox_core.videos.video_io import read_image, read_metadata, read_video


def moving_picture(num_frames: int, height: int = 64, width: int = 96) -> Tensor:
    """A coloured gradient that drifts, [1, 3, F, H, W]: what a codec can keep well."""
    y = torch.linspace(0, 1, height)[:, None].expand(height, width)
    x = torch.linspace(0, 1, width)[None].expand(height, width)
    frames = [torch.stack([(x + t) / 2, (y + 1 - t) / 2, 0.2 + 0.6 * x * y]) for t in torch.linspace(0, 1, num_frames)]
    return torch.stack(frames, dim=1)[None]


def test_only_the_frames_asked_for_are_read(tmp_path: Path) -> None:
    path = write_video(tmp_path / "out.mp4", moving_picture(9), 8)
    assert torch.equal(read_video(path, max_frames=5)[0], read_video(path)[0][:, :, :5])


def test_files_that_are_no_videos_are_named(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mp4", moving_picture(9), 8).read_bytes()
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 3])
    for name in ("text.mp4", "empty.mp4", "cut.mp4"):
        with pytest.raises(ValueError, match=f"{name} .*; give a complete video file such as an mp4"):
            read_video(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="there is no such file; check the path"):
        read_video(tmp_path / "absent.mp4")
    with pytest.raises(FileNotFoundError, match="it is a folder"):
        read_video(tmp_path)


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "sound.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame(format="s16", layout="mono", samples=800)
        frame.sample_rate = 8000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    with pytest.raises(ValueError, match="sound.wav cannot be read as a video"):
        read_video(path)


def test_pictures_are_turned_the_way_the_camera_was_held(tmp_path: Path) -> None:
    picture = Image.new("RGB", (40, 20), "red")
    orientation = picture.getexif()
    orientation[0x0112] = 6  # on its side
    picture.save(tmp_path / "photo.jpg", exif=orientation)
    assert read_image(tmp_path / "photo.jpg").size == (20, 40)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1", "CMYK"])
def test_pictures_of_every_mode_become_rgb(tmp_path: Path, mode: str) -> None:
    name = f"picture.{'tif' if mode == 'CMYK' else 'png'}"
    Image.new(mode, (16, 8)).save(tmp_path / name)
    image = read_image(tmp_path / name)
    assert (image.mode, image.size) == ("RGB", (16, 8))


def test_files_that_are_no_pictures_are_named(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:60])
    (tmp_path / "text.png").write_text("not a picture")
    for name in ("cut.png", "text.png"):
        with pytest.raises(ValueError, match=f"{name} cannot be read as a picture; give a PNG, JPEG or WebP file"):
            read_image(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        read_image(tmp_path / "absent.png")


def test_metadata_of_other_files_is_empty(tmp_path: Path) -> None:
    path = write_video(tmp_path / "out.mp4", moving_picture(1), 8)
    assert read_metadata(path) == {}
    foreign = tmp_path / "foreign.mp4"
    with av.open(str(path)) as source, av.open(str(foreign), "w") as copy:
        copy.metadata["comment"] = "filmed in [Rome"
        stream = copy.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                copy.mux(packet)
    assert read_metadata(foreign) == {}


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "out.mp4", moving_picture(1), 8)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match="need the package av, which is missing; run: pip install av"):
        read_video(path)
