"""Real files: what is written is decoded again with PyAV, and what cannot be written leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import av
import pytest
import torch
from PIL import Image
from torch import Tensor

from cogvideox_core.videos.video_io import (
    _write_errors,
    check_fps,
    check_writable,
    read_image,
    read_metadata,
    read_video,
    write_video,
)
from tests.provision import REPO


def moving_picture(num_frames: int = 17, height: int = 64, width: int = 96) -> Tensor:
    """A coloured gradient that drifts, [1, 3, F, H, W]: what a codec can keep well."""
    y = torch.linspace(0, 1, height)[:, None].expand(height, width)
    x = torch.linspace(0, 1, width)[None].expand(height, width)
    frames = [torch.stack([(x + t) / 2, (y + 1 - t) / 2, 0.2 + 0.6 * x * y]) for t in torch.linspace(0, 1, num_frames)]
    return torch.stack(frames, dim=1)[None]


def psnr(ours: Tensor, reference: Tensor) -> float:
    return float(-10 * torch.log10((ours - reference).square().mean()))


def run_python(script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        cwd=REPO,
        env=os.environ | {"PYTHONPATH": f"{REPO}{os.pathsep}{REPO / 'tests'}"},
        capture_output=True,
        text=True,
        timeout=120,
    )


# --- Writing --------------------------------------------------------------------------------------------------------


def test_mp4_decodes_to_the_frames_size_rate_and_format_it_was_given(tmp_path: Path) -> None:
    video = moving_picture()
    assert write_video(tmp_path / "out.mp4", video, 8) == tmp_path / "out.mp4"
    with av.open(str(tmp_path / "out.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height, stream.average_rate) == (96, 64, 8)
        assert stream.frames == len(list(container.decode(video=0))) == 17
        assert float(stream.duration * stream.time_base) == pytest.approx(17 / 8)
    assert [file.name for file in tmp_path.iterdir()] == ["out.mp4"]


def test_colours_survive_and_are_tagged(tmp_path: Path) -> None:
    video = moving_picture()
    frames, _ = read_video(write_video(tmp_path / "out.mp4", video, 8))
    assert psnr(frames, video) > 40
    with av.open(str(tmp_path / "out.mp4")) as container:
        next(container.decode(video=0))
        context = container.streams.video[0].codec_context
        assert (int(context.colorspace), int(context.color_range)) == (6, 1)  # BT.601 of 525 lines, limited range
        assert (int(context.color_primaries), int(context.color_trc)) == (6, 6)


def test_quality_is_that_of_crf_17_and_not_the_encoders_default(tmp_path: Path) -> None:
    grey = torch.rand(1, 9, 64, 64, generator=torch.Generator().manual_seed(0))
    noise = torch.nn.functional.interpolate(grey, scale_factor=4, mode="bilinear").expand(3, -1, -1, -1)[None]
    path = write_video(tmp_path / "out.mp4", noise, 8)
    content = path.read_bytes()
    assert b"crf=17.0" in content and b"mbtree=0" in content  # x264 notes its settings in the stream
    assert 0 < content.index(b"moov") < content.index(b"mdat"), "players need the index first"
    assert psnr(read_video(path)[0], noise) > 35  # crf 23 would give 33


def test_chunks_stream_into_the_file_one_at_a_time(tmp_path: Path) -> None:
    video = moving_picture(13)
    seen: list[list[str]] = []

    def chunks() -> Iterator[Tensor]:
        for chunk in video.split((5, 4, 4), dim=2):
            seen.append([file.name for file in tmp_path.iterdir()])
            yield chunk

    path = write_video(tmp_path / "stream.mp4", chunks(), 16)
    whole = write_video(tmp_path / "whole.mp4", video, 16)
    assert path.read_bytes() == whole.read_bytes(), "the same video makes the same file"
    assert seen[0] == [], "nothing is opened before the first frame is there"
    assert all(len(names) == 1 and names[0].endswith(".part.mp4") for names in seen[1:])


@pytest.mark.parametrize("fps", [8, 16, 12.5, 30000 / 1001])
def test_frame_rate_is_kept(tmp_path: Path, fps: float) -> None:
    assert read_video(write_video(tmp_path / "out.mp4", moving_picture(3), fps))[1] == pytest.approx(fps, rel=1e-4)


def test_one_frame_is_a_video(tmp_path: Path) -> None:
    frames, _ = read_video(write_video(tmp_path / "out.mp4", moving_picture(1), 8))
    assert frames.shape == (1, 3, 1, 64, 96)


def test_half_precision_and_values_beyond_the_range_are_written(tmp_path: Path) -> None:
    video = (moving_picture(2) * 3 - 1).to(torch.bfloat16)
    frames, _ = read_video(write_video(tmp_path / "out.mp4", video, 8))
    assert psnr(frames, video.float().clamp(0, 1)) > 30


def test_metadata_comes_back_whatever_characters_it_holds(tmp_path: Path) -> None:
    settings = {
        "prompt": 'a "red"\ncircle; ünïcödé \u6f22\u5b57 \U0001f388 = \\',
        "seed": 2**63,
        "guidance": 6.5,
        "video": None,
        "dynamic": True,
    }
    path = write_video(tmp_path / "out.mp4", moving_picture(1), 8, settings)
    assert read_metadata(path) == settings
    with av.open(str(path)) as container:
        assert "ünïcödé" in container.metadata["comment"], "any player shows it"


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


def test_an_existing_file_is_replaced_only_by_a_complete_one(tmp_path: Path) -> None:
    path = write_video(tmp_path / "out.mp4", moving_picture(3), 8)
    before = path.read_bytes()

    def broken() -> Iterator[Tensor]:
        yield moving_picture(2)
        raise RuntimeError("the model failed")

    with pytest.raises(RuntimeError, match="the model failed"):
        write_video(path, broken(), 8)
    assert path.read_bytes() == before
    write_video(path, moving_picture(2), 8)
    assert read_video(path)[0].shape[2] == 2


# --- What does not fit, and what fails ------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OSError])
def test_failure_in_the_middle_leaves_no_file_and_passes_through(tmp_path: Path, error: type[BaseException]) -> None:
    def interrupted() -> Iterator[Tensor]:
        yield moving_picture(5)
        yield moving_picture(5)
        raise error("from the model")

    with pytest.raises(error, match="^from the model$"):
        write_video(tmp_path / "out.mp4", interrupted(), 8)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (torch.zeros(1, 3, 2, 64, 95), "95x64 pixels; an mp4 takes even sizes; use 96x64"),
        (torch.zeros(1, 3, 2, 63, 96), "96x63 pixels; an mp4 takes even sizes; use 96x64"),
        (torch.zeros(2, 3, 2, 64, 96), r"shape \[2, 3, 2, 64, 96\]; a video file takes \[1, 3, F, H, W\]"),
        (torch.zeros(1, 2, 3, 64, 96), r"shape \[1, 2, 3, 64, 96\]"),
        (torch.zeros(1, 3, 0, 64, 96), "no frame to write"),
        ([], "no frame to write"),
        ([torch.zeros(1, 3, 1, 64, 96), torch.zeros(1, 3, 1, 64, 64)], "64x64 follow frames of 96x64; use one size"),
    ],
)
def test_frames_that_do_not_fit_are_refused(tmp_path: Path, frames: Tensor | list[Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_video(tmp_path / "out.mp4", frames, 8)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fps", [0, -8, 1001, float("nan"), float("inf")])
def test_odd_frame_rates_are_refused(tmp_path: Path, fps: float) -> None:
    with pytest.raises(ValueError, match="a video has more than 0 and at most 1000"):
        check_fps(fps)
    with pytest.raises(ValueError, match="fps="):
        write_video(tmp_path / "out.mp4", moving_picture(1), fps)


@pytest.mark.parametrize("name", ["out.gif", "out", "out.mp4.webm", "out.png"])
def test_other_extensions_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"written as \.mp4 only; use .*\.mp4"):
        check_writable(tmp_path / name)


def test_a_place_that_cannot_hold_the_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "folder.mp4").mkdir()
    before = sorted(tmp_path.rglob("*"))
    for path, error, message in (
        (tmp_path / "absent" / "out.mp4", FileNotFoundError, "there is no folder .*absent; make it first"),
        (tmp_path / "file" / "out.mp4", FileNotFoundError, "there is no folder .*file; make it first"),
        (tmp_path / "folder.mp4", IsADirectoryError, "it is a folder; name a file"),
        (tmp_path / f"{'long' * 80}.mp4", OSError, "the name is too long"),
    ):
        with pytest.raises(error, match=f"^Cannot write .*{message}"):
            check_writable(path)
        with pytest.raises(error, match=message):
            write_video(path, moving_picture(1), 8)
    assert sorted(tmp_path.rglob("*")) == before


def test_checking_leaves_nothing_and_touches_nothing(tmp_path: Path) -> None:
    (tmp_path / "out.mp4").write_text("precious")
    assert check_writable(str(tmp_path / "out.mp4")) == tmp_path / "out.mp4"
    assert [file.read_text() for file in tmp_path.iterdir()] == ["precious"]


def test_a_folder_without_permission_is_named_before_the_run() -> None:
    """In a process without root's rights, for root may write anywhere."""
    told = run_python("""
        import os, tempfile
        from cogvideox_core.videos.video_io import check_writable, write_video
        import av, torch
        folder = tempfile.mkdtemp()
        os.chmod(folder, 0o555)
        if os.getuid() == 0:
            os.setgroups([]), os.setgid(65534), os.setuid(65534)
        try:
            check_writable(folder + "/out.mp4")
        except OSError as error:
            print(error)
    """)
    assert "there is no permission to write in its folder; name a file in another one" in told.stdout, told.stderr


@pytest.mark.parametrize("limit", [100_000, 400_000], ids=["before the run", "while writing"])
def test_a_file_that_may_not_grow_is_told_and_removed(tmp_path: Path, limit: int) -> None:
    """The kernel stops the file at `limit` bytes: the probe at once, or the video half-way."""
    told = run_python(
        """
        import resource, sys, torch
        from cogvideox_core.videos.video_io import write_video
        asked = []
        def chunks():
            for _ in range(20):
                asked.append(1)
                yield torch.rand(1, 3, 4, 256, 256)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
        try:
            write_video(sys.argv[1], chunks(), 8)
        except OSError as error:
            print(len(asked), type(error).__name__, error)
        """,
        tmp_path / "out.mp4",
        str(limit),
    )
    assert "OSError Cannot write" in told.stdout and "larger than this system allows" in told.stdout, told.stderr
    assert told.stdout.startswith("0 ") == (limit == 100_000)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="^Cannot write .*out.mp4: there is no space left on the disk; free some"):
        with _write_errors(tmp_path / "out.mp4"), open("/dev/full", "wb", buffering=0) as full:
            full.write(b"video")


# --- Reading --------------------------------------------------------------------------------------------------------


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


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match="need the package av, which is missing; run: pip install av"):
        check_writable(tmp_path / "out.mp4")
