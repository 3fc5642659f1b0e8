"""Files as cameras and programs write them: rotated, tagged, of odd sizes, damaged. PyAV writes, and is the judge."""

from __future__ import annotations

import io
import logging
import re
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch import Tensor

from cogvideox_core.videos.decoding import ENDINGS, existing_file, need_av, open_video, square, upright
from tests.support.counted_videos import KINDS, MATRICES, UPRIGHT, Kind, Matrix, number_of, picture, write_counted
from tests.support.counted_videos import write_pictures as write

LOSSLESS = Kind("libx264", "yuv444p", {"qp": "0"})


def frames_of(path: Path, background: str = "white") -> list[Tensor]:
    with open_video(path) as video:
        return [video.pixels(moment.shown, background) for moment in video.frames()]


# --- Shape ----------------------------------------------------------------------------------------------------------


def turned(pixels: np.ndarray, matrix: Matrix) -> np.ndarray:
    """Every pixel [row, column] where the matrix sends it, one at a time."""
    a, b, c, d = matrix
    height, width = pixels.shape[:2]
    places = {(b * x + d * y, a * x + c * y): pixels[y, x] for y in range(height) for x in range(width)}
    top, left = (min(place[axis] for place in places) for axis in (0, 1))
    found = np.zeros_like(pixels if a or d else pixels.transpose(1, 0, 2))
    for (row, column), value in places.items():
        found[row - top, column - left] = value
    return found


@pytest.mark.parametrize("name", MATRICES)
def test_what_a_header_does_to_a_picture_is_done(name: str, tmp_path: Path) -> None:
    stored = picture(0b10110100, 48, 32)
    path = write(tmp_path / "phone.mp4", [stored] * 2, 8, kind=LOSSLESS, matrix=MATRICES[name])
    for frame in frames_of(path):
        wanted = torch.from_numpy(turned(stored, MATRICES[name])).permute(2, 0, 1)
        assert frame.shape == wanted.shape
        assert (frame * 255 - wanted).abs().max() < 4


@pytest.mark.parametrize("ending", [".mp4", ".mov"])
@pytest.mark.parametrize("name", ["to the right", "on its head", "to the left"])
def test_rotation_is_what_pyav_calls_it(name: str, ending: str, tmp_path: Path) -> None:
    path = write_counted(tmp_path / f"phone{ending}", 1, 8, matrix=MATRICES[name])
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        if not hasattr(frame, "rotation"):
            pytest.skip("this PyAV does not say how a frame lies")
        wanted = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
    (found,) = frames_of(path)
    assert found.shape[1:] == wanted.shape[:2]
    off = (found * 255 - torch.from_numpy(wanted.copy()).permute(2, 0, 1)).abs()
    assert off.mean() < 3, "FFmpeg's scaler blurs edges of colour a little"


def test_a_clip_that_was_laid_down_stands_upright_again(tmp_path: Path) -> None:
    laid = np.ascontiguousarray(np.rot90(picture(77, 64, 96)))  # counterclockwise
    (found,) = frames_of(write(tmp_path / "phone.mp4", [laid], 8, matrix=MATRICES["to the right"]))
    assert found.shape == (3, 96, 64) and number_of(found) == 77


@pytest.mark.parametrize(
    ("matrix", "wanted"),
    [
        ((65536, 0, 0, 65536), [[1, 2], [3, 4]]),
        ((-65536, 3, 3, 65536), [[2, 1], [4, 3]]),
        ((0, 7, -7, 0), [[3, 1], [4, 2]]),
    ],
)
def test_matrices_count_by_their_signs(matrix: Matrix, wanted: list[list[int]]) -> None:
    pixels = torch.tensor([[[1, 2], [3, 4]]]).expand(3, 2, 2)
    assert upright(pixels, matrix)[0].tolist() == wanted


def test_pixels_that_are_not_square_are_made_so(tmp_path: Path) -> None:
    """As DV and broadcast have them: 720 x 576 to be shown in 16:9."""
    path = tmp_path / "wide.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 72, 58, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(64, 45)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(5, 72, 58), format="rgb24")))
        container.mux(stream.encode(None))
    (found,) = frames_of(path)
    assert found.shape == (3, 58, 102) and number_of(found) == 5
    plain = torch.rand(3, 4, 5)
    assert square(plain, None) is square(plain, Fraction(1)) is square(plain, Fraction(1001, 1000)) is plain
    assert square(plain, Fraction(1, 2)).shape == (3, 4, 2)


@pytest.mark.parametrize("size", [(321, 241), (33, 17), (16, 16), (333, 91)])
@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.mp4", Kind("libx264", "yuv444p")), ("a.avi", Kind("mpeg4")), ("a.mkv", Kind("ffv1", "bgr0"))],
)
def test_sizes_may_be_odd(name: str, kind: Kind, size: tuple[int, int], tmp_path: Path) -> None:
    path = write_counted(tmp_path / name, 3, 8, size=size, kind=kind)
    found = frames_of(path)
    assert [frame.shape for frame in found] == [(3, size[1], size[0])] * 3
    assert [number_of(frame) for frame in found] == [0, 1, 2]
    assert (found[0][:, : size[1] // 4] - 16 / 255).abs().max() < 0.3, "pixels are wrong up to the edge"


# --- Containers and colours -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", KINDS)
@pytest.mark.parametrize("count", [1, 9])
def test_containers_are_read_whole(ending: str, count: int, tmp_path: Path) -> None:
    assert ending.lower() in ENDINGS
    path = write_counted(tmp_path / f"clip{ending}", count, 10)
    with open_video(path) as video:
        moments = list(video.frames())
        assert [number_of(video.pixels(moment.shown)) for moment in moments] == list(range(count))
        assert [float(moment.start) for moment in moments] == pytest.approx([index / 10 for index in range(count)])
        assert float(moments[-1].end) == pytest.approx(count / 10, abs=0.011)
        assert float(video.fps) == pytest.approx(10) and video.seconds == pytest.approx(count / 10, abs=0.011)
    with open_video(path) as video:
        assert [moment[:2] for moment in video.times()] == [moment[:2] for moment in moments]


def test_times_are_counted_from_the_first_frame(tmp_path: Path) -> None:
    path = write_counted(tmp_path / "late.mkv", 4, 8, milliseconds=[5000, 5100, 5900, 6000])
    with open_video(path) as video:
        assert [float(moment.start) for moment in video.frames()] == [0, 0.1, 0.9, 1.0]


@pytest.mark.parametrize(
    ("matrix", "number"), [("bt709", 1), ("smpte170m", 6), ("bt2020nc", 9)], ids=["BT.709", "BT.601", "BT.2020"]
)
@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
def test_colours_are_read_by_their_tags(matrix: str, number: int, full: bool, tmp_path: Path) -> None:
    """Of a plane of luma and two of colour differences, whose colours H.273 gives."""
    tags = {"colorspace": matrix, "color_range": "pc" if full else "tv", "qp": "0"}
    planes = [np.full((32, 48), level, np.uint8) for level in (130, 100, 180)]
    path = tmp_path / "tagged.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8, options=tags)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv444p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.stack(planes), format="yuv444p")))
        container.mux(stream.encode(None))
    (found,) = frames_of(path)
    red_share, blue_share = {1: (0.2126, 0.0722), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}[number]
    luma, blue, red = (130 / 255, -28 / 255, 52 / 255) if full else (114 / 219, -28 / 224, 52 / 224)
    r, b = luma + 2 * (1 - red_share) * red, luma + 2 * (1 - blue_share) * blue
    g = (luma - red_share * r - blue_share * b) / (1 - red_share - blue_share)
    assert found[:, 16, 24].tolist() == pytest.approx([min(r, 1), g, b], abs=2e-3)


@pytest.mark.parametrize(("transfer", "name"), [("smpte2084", "PQ"), ("arib-std-b67", "HLG")])
def test_high_dynamic_range_is_brought_to_the_usual_one_and_said(
    transfer: str, name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A grey card, 26 of 203 cd/m2 (BT.2408: 38 % of both signals), on a screen of gamma 2.4."""
    tags = {"colorspace": "bt2020nc", "color_primaries": "bt2020", "color_trc": transfer, "color_range": "tv"}
    path = tmp_path / "hdr.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx265", rate=8, options={**tags, "x265-params": "log-level=none"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p10le"
        for number in range(3):
            frame = av.VideoFrame(96, 64, "yuv420p10le")
            for plane, level in zip(frame.planes, (64 + 0.38 * 876, 512, 512), strict=True):
                plane.update(np.full(plane.buffer_size // 2, round(level), np.uint16).tobytes())
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with caplog.at_level(logging.INFO, logger="cogvideox"):
        found = frames_of(path)
    assert found[1][:, 32, 48].tolist() == pytest.approx([(26 / 203) ** (1 / 2.4)] * 3, abs=0.02)
    assert [record.getMessage() for record in caplog.records] == [
        f"{path} is HDR ({name}): its colours are brought to those of a usual screen"
    ]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.webm", Kind("libvpx-vp9", "yuva420p", {"lossless": "1"})),
        ("a.mov", Kind("prores_ks", "yuva444p10le", {"profile": "4444"})),
        ("b.mov", Kind("png", "rgba")),
        ("c.mov", Kind("qtrle", "argb")),
    ],
    ids=["VP9", "ProRes 4444", "PNG", "Animation"],
)
def test_transparent_videos_are_put_on_the_background(name: str, kind: Kind, tmp_path: Path) -> None:
    pixels = np.zeros((32, 64, 4), np.uint8)
    pixels[..., 0], pixels[:, 32:, 3] = 255, 255
    path = write(tmp_path / name, [pixels] * 3, 8, kind=kind)
    for background, colour in (("white", (1, 1, 1)), ("#0000ff", (0, 0, 1))):
        found = frames_of(path, background)
        assert len(found) == 3
        assert found[2][:, 16, 8].tolist() == pytest.approx(colour, abs=0.02)
        assert found[2][:, 16, 56].tolist() == pytest.approx((1, 0, 0), abs=0.02)


# --- What is no video -----------------------------------------------------------------------------------------------


def test_a_stream_of_bytes_is_a_file_too(tmp_path: Path) -> None:
    content = write_counted(tmp_path / "a.mp4", 3, 8).read_bytes()
    with open_video(io.BytesIO(content)) as video:
        assert [number_of(video.pixels(moment.shown)) for moment in video.frames()] == [0, 1, 2]
    with pytest.raises(ValueError, match="^the video cannot be read as a video; give a complete video file"):
        with open_video(io.BytesIO(b"no video")):
            pass


@pytest.mark.parametrize("name", ["12:30.mp4", "100%.mp4", "%03d.mp4", "clip[1] & more.mp4", "\u732b.mp4"])
def test_a_file_may_be_called_anything(name: str, tmp_path: Path) -> None:
    path = write_counted(tmp_path / "a.mp4", 2, 8)
    assert len(frames_of(path.rename(tmp_path / name))) == 2


def test_a_song_with_a_cover_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "song.mp3"
    with av.open(str(path), "w") as container:
        song, cover = container.add_stream("mp3", rate=44100), container.add_stream("png", rate=1)
        cover.width, cover.height, cover.pix_fmt = 96, 64, "rgb24"
        frame = av.AudioFrame(format="s16p", layout="stereo", samples=1152)
        frame.sample_rate = 44100
        container.mux(cover.encode(av.VideoFrame.from_ndarray(picture(1, 96, 64), format="rgb24")))
        for stream, given in ((song, frame), (song, None), (cover, None)):
            container.mux(stream.encode(given))
    with av.open(str(path)) as container:
        assert len(container.streams.video) == 1
        if not hasattr(container.streams.video[0], "disposition"):
            pytest.skip("this PyAV does not tell covers from videos")
    with pytest.raises(
        ValueError, match=r"song.mp3 cannot be read as a video, for there are no pictures in it; give a"
    ):
        frames_of(path)


@pytest.mark.parametrize("part", [0.0, 0.3, 0.6, 0.95])
@pytest.mark.parametrize("ending", KINDS)
def test_a_file_that_is_cut_short_gives_its_frames_or_a_sentence(ending: str, part: float, tmp_path: Path) -> None:
    path = write_counted(tmp_path / f"cut{ending}", 30, 30)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    numbers, told = [], ""
    try:
        with open_video(path) as video:
            for moment in video.frames():
                numbers.append(number_of(video.pixels(moment.shown)))
    except ValueError as error:
        told = str(error)
    assert not told or re.fullmatch(
        f"{re.escape(str(path))} cannot be read .*; give a complete video file .*mp4[.]", told
    )
    assert numbers == sorted(numbers) and set(numbers) <= set(range(30))


def test_a_file_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent.mp4: there is no such file; check the path"):
        existing_file(tmp_path / "absent.mp4")
    with pytest.raises(FileNotFoundError, match="it is a folder"):
        frames_of(tmp_path)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match="need the package av, which is missing; run: pip install av"):
        need_av()


def test_a_plain_file_has_a_plain_matrix() -> None:
    pixels = torch.rand(3, 4, 5)
    assert upright(pixels, UPRIGHT) is pixels
