"""Real files: what is written is decoded again by others, and what cannot be written leaves nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from torch import Tensor

from cogvideox_core.training.demo_world.world import make_scene, render
from cogvideox_core.videos.film_writers import Sound
from cogvideox_core.videos.video_files import (
    check_codec,
    check_crf,
    check_fps,
    check_writable,
    write_errors,
    write_frames,
    write_video,
)
from cogvideox_core.videos.video_io import read_metadata, read_video
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


@pytest.mark.parametrize(("name", "codec"), [("out.mp4", None), ("out.webm", None), ("out.webm", "av1")])
def test_colours_survive_and_are_tagged(tmp_path: Path, name: str, codec: str | None) -> None:
    video = moving_picture()
    frames, _ = read_video(write_video(tmp_path / name, video, 8, codec=codec))
    assert psnr(frames, video) > 44
    with av.open(str(tmp_path / name)) as container:
        next(container.decode(video=0))
        context = container.streams.video[0].codec_context
        assert (int(context.colorspace), int(context.color_range)) == (1, 1)  # BT.709, limited range
        if name == "out.mp4":  # FFmpeg's muxer leaves these two out of a WebM
            assert (int(context.color_primaries), int(context.color_trc)) == (1, 1)


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


# --- Formats --------------------------------------------------------------------------------------------------------

ENDINGS = [".mp4", ".webm", ".gif", ".webp", "_%03d.png"]
SATURATED = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 255, 255), (255, 0, 255), (255, 255, 0), (255, 255, 255)]
GREYS = [(0, 0, 0), (127, 127, 127), (200, 30, 90), (17, 99, 180)]


def decoded(path: Path) -> tuple[Tensor, list[float]]:
    """Frames [1, 3, F, H, W] in 0 to 1, and the seconds that each is shown, as other programs have them."""
    if path.suffix == ".png":
        files = sorted(path.parent.glob(path.name.replace("%03d", "*").replace("%05d", "*")))
        pictures, durations = [np.asarray(Image.open(file)) for file in files], []
    elif path.suffix in (".gif", ".webp"):
        with Image.open(path) as animation:
            parts = [(part.convert("RGB"), part.info["duration"]) for part in ImageSequence.Iterator(animation)]
        pictures, durations = [np.asarray(picture) for picture, _ in parts], [each / 1000 for _, each in parts]
    else:
        frames, fps = read_video(path)
        return frames, [1 / fps] * frames.shape[2]
    return torch.from_numpy(np.stack(pictures)).permute(3, 0, 1, 2)[None].float() / 255, durations


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_format_gives_the_frames_and_their_rate_back(tmp_path: Path, ending: str) -> None:
    video = moving_picture()
    path = write_video(tmp_path / f"out{ending}", video, 16)
    frames, durations = decoded(path)
    assert frames.shape == video.shape
    assert psnr(frames, video) > (36 if ending == ".gif" else 38), "256 colours are mixed to the others"
    assert ((frames - video).mean((0, 2, 3, 4)).abs() * 255).max() < 0.5, "no level is lost on average"
    assert not durations or sum(durations) == pytest.approx(17 / 16, abs=0.011)
    assert all(not file.name.startswith(".") for file in tmp_path.iterdir())


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("colour", SATURATED + GREYS)
def test_an_even_colour_comes_back(tmp_path: Path, ending: str, colour: tuple[int, ...]) -> None:
    video = (torch.tensor(colour) / 255).view(1, 3, 1, 1, 1).expand(1, 3, 2, 64, 96)
    frames, _ = decoded(write_video(tmp_path / f"out{ending}", video, 8))
    assert ((frames - video[:, :, : frames.shape[2]]).abs() * 255).max() < (3.5 if ending == ".webp" else 2.5)


def test_ten_saves_and_loads_keep_the_colours(tmp_path: Path) -> None:
    first = video = render(make_scene(3), 9, 128, 192)[None]
    for number in range(10):
        video, _ = read_video(write_video(tmp_path / f"{number}.mp4", video, 8))
    shift = (video - first).mean((0, 2, 3, 4)) * 255
    assert shift.abs().max() < 0.5, f"red, green and blue are {shift} levels brighter"
    assert (video - first).abs().mean() * 255 < 1


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_format_holds_its_settings(tmp_path: Path, ending: str) -> None:
    settings = {"prompt": 'a "red"\ncircle; \u6f22\u5b57 \U0001f388 = \\', "seed": 2**63, "long": "x" * 1000}
    path = write_video(tmp_path / f"out{ending}", moving_picture(2), 8, settings)
    assert read_metadata(path if path.exists() else path.with_name(path.name % 2)) == settings


@pytest.mark.parametrize("ending", [".mp4", ".webm"])
def test_other_tags_are_there_by_their_names(tmp_path: Path, ending: str) -> None:
    tags = {"prompt": {"1": {"inputs": {}}}, "workflow": {"note": "b\u00e4r"}}
    path = write_frames(tmp_path / f"out{ending}", moving_picture(2), 8, tags)
    with av.open(str(path)) as container:
        found = {name.lower(): text for name, text in container.metadata.items()}
    assert {name: json.loads(found[name]) for name in tags} == tags


@pytest.mark.parametrize("ending", [".mp4", ".webm"])
def test_a_larger_crf_makes_a_smaller_file(tmp_path: Path, ending: str) -> None:
    noise = torch.rand(1, 3, 5, 64, 64, generator=torch.Generator().manual_seed(0))
    sizes = [write_video(tmp_path / f"{crf}{ending}", noise, 8, crf=crf).stat().st_size for crf in (0, 17, 30, 51)]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > 1.4 * sizes[2]


@pytest.mark.parametrize("codec", ["vp9", "av1"])
def test_webm_is_about_as_good_as_mp4(tmp_path: Path, codec: str) -> None:
    grey = torch.rand(1, 9, 64, 64, generator=torch.Generator().manual_seed(0))
    noise = torch.nn.functional.interpolate(grey, scale_factor=4, mode="bilinear").expand(3, -1, -1, -1)[None]
    path = write_video(tmp_path / "out.webm", noise, 8, codec=codec)
    assert psnr(read_video(path)[0], noise) > 35
    with av.open(str(path)) as container:
        assert codec in container.streams.video[0].codec_context.name.replace("libdav1d", "av1")


@pytest.mark.parametrize("size", [(33, 47), (1, 1)])
@pytest.mark.parametrize("ending", [".gif", ".webp", "_%03d.png"])
def test_pictures_may_have_odd_sizes(tmp_path: Path, ending: str, size: tuple[int, int]) -> None:
    video = moving_picture(3, *size)
    assert decoded(write_video(tmp_path / f"out{ending}", video, 8))[0].shape[3:] == size


@pytest.mark.parametrize("ending", [".gif", ".mp4", ".webm"])
def test_frames_that_repeat_are_frames(tmp_path: Path, ending: str) -> None:
    video = moving_picture(1).expand(-1, -1, 5, -1, -1)
    frames, durations = decoded(write_video(tmp_path / f"out{ending}", video, 8))
    assert frames.shape[2] == 5 and sum(durations) == pytest.approx(5 / 8, abs=0.011)


# --- PNG files ------------------------------------------------------------------------------------------------------


def test_a_folder_is_filled_with_numbered_pictures_without_loss(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "notes.txt").write_text("mine")
    video = torch.rand(1, 3, 3, 33, 47)
    for folder in (f"{tmp_path / 'new'}/", str(tmp_path / "there")):
        path = write_video(folder, iter(video.split(1, dim=2)), 8)
        assert path == Path(folder) / "%05d.png"
        assert sorted(file.name for file in path.parent.glob("*.png")) == ["00001.png", "00002.png", "00003.png"]
        assert torch.equal(decoded(path)[0], (video * 255).round() / 255)
    assert sorted(os.listdir(tmp_path)) == ["new", "there"] and (tmp_path / "there" / "notes.txt").exists()


def test_pictures_are_not_mixed_with_those_of_another_video(tmp_path: Path) -> None:
    write_video(tmp_path / "one_%d.png", moving_picture(2), 8)
    write_video(tmp_path / "two_%d.png", moving_picture(2), 8)
    for name in ("one_%d.png", "one_%04d.png"):
        with pytest.raises(FileExistsError, match="one_1.png is there already; name a new or empty folder"):
            check_writable(tmp_path / name)


@pytest.mark.parametrize("name", ["out.png", "%d_%d.png", "%s.png", "100%.png"])
def test_pictures_need_a_number(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"one PNG holds one frame, so the name needs a number; use .*_%05d\.png\.$"):
        check_writable(tmp_path / name)


@pytest.mark.parametrize("name", ["out.gif", "out.webp", "out.webm", "new/", "there/", "out_%d.png"])
def test_a_failure_leaves_nothing_of_any_format(tmp_path: Path, name: str) -> None:
    (tmp_path / "there").mkdir()

    def broken() -> Iterator[Tensor]:
        yield moving_picture(2)
        raise RuntimeError("the model failed")

    with pytest.raises(RuntimeError, match="the model failed"):
        write_video(f"{tmp_path}/{name}", broken(), 8)
    assert os.listdir(tmp_path) == ["there"] and not os.listdir(tmp_path / "there")


# --- Sound ----------------------------------------------------------------------------------------------------------


def tone(channels: int = 2, rate: int = 44100, seconds: float = 3.0, hertz: float = 440.0) -> Sound:
    wave = torch.sin(torch.arange(int(rate * seconds)) * (2 * torch.pi * hertz / rate)) / 2
    return Sound(wave.expand(channels, -1), rate)


@pytest.mark.parametrize("ending", [".mp4", ".webm"])
@pytest.mark.parametrize(("channels", "rate"), [(1, 44100), (2, 48000), (6, 44100), (2, 12345)])
def test_sound_is_kept_and_cut_where_the_video_ends(tmp_path: Path, ending: str, channels: int, rate: int) -> None:
    sound = tone(channels, rate)
    path = write_frames(tmp_path / f"out{ending}", moving_picture(8), 8, {}, sound=sound)
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        wave = np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)
        assert stream.channels == channels and wave.shape[1] / stream.rate == pytest.approx(1, abs=0.1)
        spectrum = np.abs(np.fft.rfft(wave[0] if len(wave) == channels else wave[0, ::channels], stream.rate))
    assert np.argmax(spectrum) == pytest.approx(440, abs=3)
    assert read_video(path)[0].shape[2] == 8


@pytest.mark.parametrize("ending", [".gif", ".webp", "_%d.png"])
def test_a_format_without_sound_is_written_without(tmp_path: Path, ending: str) -> None:
    path = write_frames(tmp_path / f"out{ending}", moving_picture(2), 8, {}, sound=tone(channels=3))
    assert path.exists() or path.with_name("out_2.png").exists()


def test_silence_is_no_sound(tmp_path: Path) -> None:
    path = write_frames(tmp_path / "out.mp4", moving_picture(2), 8, {}, sound=tone(seconds=0))
    with av.open(str(path)) as container:
        assert not container.streams.audio


def test_other_numbers_of_channels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="audio of 3 channels; a WebM takes 1, 2 or 6; mix it down to 2"):
        write_frames(tmp_path / "out.webm", moving_picture(2), 8, {}, sound=tone(channels=3))
    assert not os.listdir(tmp_path)


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


def test_a_gif_is_not_faster_than_players_show_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="fps=60; players show at most 50 frames per second of a GIF; use mp4"):
        write_video(tmp_path / "out.gif", moving_picture(2), 60)
    assert decoded(write_video(tmp_path / "out.gif", moving_picture(2), 50))[1] == [0.02, 0.02]


@pytest.mark.parametrize(("name", "codec"), [("out.mp4", "av1"), ("out.webm", "h265"), ("out.gif", "vp9")])
def test_other_codecs_are_refused(tmp_path: Path, name: str, codec: str) -> None:
    told = f"codec={codec} for {name}; there are vp9, av1, for .webm files only"
    with pytest.raises(ValueError, match=told):
        check_codec(codec, name)
    with pytest.raises(ValueError, match=told):
        write_video(tmp_path / name, moving_picture(1), 8, codec=codec)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("crf", [-1, 52])
def test_odd_qualities_are_refused(tmp_path: Path, crf: int) -> None:
    with pytest.raises(ValueError, match=f"crf={crf}; it is 0 .best. to 51 .smallest.; use 17"):
        check_crf(crf)
    with pytest.raises(ValueError, match="crf="):
        write_video(tmp_path / "out.mp4", moving_picture(1), 8, crf=crf)


@pytest.mark.parametrize("fps", [0, -8, 1001, float("nan"), float("inf")])
def test_odd_frame_rates_are_refused(tmp_path: Path, fps: float) -> None:
    with pytest.raises(ValueError, match="a video has more than 0 and at most 1000"):
        check_fps(fps)
    with pytest.raises(ValueError, match="fps="):
        write_video(tmp_path / "out.mp4", moving_picture(1), fps)


@pytest.mark.parametrize("name", ["out", "out.avi", "out.mp4.part"])
def test_other_extensions_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"written as \.mp4, .*, or as PNG files, named as a folder .*; use .*\.mp4"):
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
        from cogvideox_core.videos.video_files import check_writable, write_video
        import av, PIL, torch
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
        from cogvideox_core.videos.video_files import write_video
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
        with write_errors(tmp_path / "out.mp4"), open("/dev/full", "wb", buffering=0) as full:
            full.write(b"video")


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match="packages av and pillow, and av is missing; run: pip install av pillow"):
        check_writable(tmp_path / "out.mp4")
