"""Decoded frames as RGB: against what FFmpeg's filters encode, and against the levels that ITU's reports name."""

from __future__ import annotations

from fractions import Fraction
from itertools import product
from typing import cast

import av
import numpy as np
import pytest
import torch
from av.filter import Graph
from torch import Tensor

from cogvideox_core.videos.colours import ColourTags, frame_pixels, hlg_light, pq_light, pq_values, standard_range

UNKNOWN = ColourTags(2, 2, 2)
PQ, HLG = ColourTags(9, 9, 16), ColourTags(9, 9, 18)
MATRICES = {"bt709": 1, "fcc": 4, "smpte170m": 6, "smpte240m": 7, "bt2020": 9}
ON_A_SCREEN = 2.4  # gamma of BT.1886


def chart(width: int, height: int) -> np.ndarray:
    """[H, W, 3]: a patch of each corner, edge and middle of the colour cube, the same over blocks of 8 x 8."""
    levels = (0, 128, 255)
    colours = np.array(list(product(levels, levels, levels)), np.uint8)
    columns = -(-width // 8)
    rows = [[(row * columns + column) % len(colours) for column in range(columns)] for row in range(-(-height // 8))]
    return np.kron(colours[np.array(rows)].transpose(2, 0, 1), np.ones((8, 8), np.uint8))[:, :height, :width].transpose(
        1, 2, 0
    )


def encoded(pixels: np.ndarray, kind: str, matrix: str = "smpte170m", full: bool = False) -> av.VideoFrame:
    """A frame of this pixel format, by FFmpeg's scaler at its most exact."""
    graph = Graph()
    source = graph.add_buffer(width=pixels.shape[1], height=pixels.shape[0], format="rgb24", time_base=Fraction(1, 8))
    scaled = graph.add(
        "scale",
        f"out_color_matrix={matrix}:out_range={'full' if full else 'limited'}:flags=accurate_rnd+full_chroma_inp+area",
    )
    kept, sink = graph.add("format", kind), graph.add("buffersink")
    for before, after in ((source, scaled), (scaled, kept), (kept, sink)):
        before.link_to(after)
    graph.configure()
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
    frame.pts = 0
    source.push(frame)
    return cast(av.VideoFrame, sink.pull())


def levels_off(frame: av.VideoFrame, tags: ColourTags, pixels: np.ndarray) -> Tensor:
    """How far the middles of the patches are from the chart, in levels of 8 bits."""
    found = frame_pixels(frame, tags)[:3]
    height, width = pixels.shape[:2]
    middles = (slice(None), slice(3, height - 4, 8), slice(3, width - 4, 8))
    return (found * 255 - torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))))[middles].abs()


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("kind", ["yuv444p", "yuv420p10le", "yuv422p12le"])
def test_a_colour_chart_comes_back(matrix: str, full: bool, kind: str) -> None:
    pixels = chart(96, 64)
    frame = encoded(pixels, kind, matrix, full)
    assert frame.color_range == (2 if full else 1)
    off = levels_off(frame, ColourTags(MATRICES[matrix], 2, 2), pixels)
    assert off.max() <= (2.2 if kind == "yuv444p" else 1.2), off.max()


def test_what_is_not_said_is_taken_as_ffmpeg_takes_it() -> None:
    pixels = chart(96, 64)
    assert levels_off(encoded(pixels, "yuv444p", "smpte170m"), UNKNOWN, pixels).max() <= 2.2
    by_primaries = UNKNOWN._replace(primaries=1)
    assert levels_off(encoded(pixels, "yuv444p", "bt709"), by_primaries, pixels).max() <= 2


@pytest.mark.parametrize(
    "kind",
    [
        *("yuv420p", "yuv422p", "yuv410p", "yuvj420p", "yuva420p", "nv12", "nv21", "yuyv422", "uyvy422", "p010le"),
        *("rgb24", "bgr24", "bgra", "argb", "bgr0", "rgba64le", "rgb48le", "rgb48be", "gbrp", "gbrp10le", "gbrap"),
    ],
)
@pytest.mark.parametrize("size", [(96, 64), (320, 240)])
def test_pixels_may_lie_in_memory_in_any_way(kind: str, size: tuple[int, int]) -> None:
    pixels = chart(*size)
    frame = encoded(pixels, kind, full=kind.startswith("yuvj"))
    found = frame_pixels(frame, UNKNOWN)
    alpha = frame.format.components[-1].is_alpha
    assert found.shape == (4 if alpha else 3, size[1], size[0]) and found.dtype == torch.float32
    assert not alpha or (found[3] == 1).all()
    assert levels_off(frame, UNKNOWN, pixels).max() <= 3.1


@pytest.mark.parametrize("kind", ["gray", "gray10le", "gray16be", "ya8", "monow", "monob"])
def test_grey_is_grey(kind: str) -> None:
    white = np.full((16, 24, 3), 255, np.uint8)
    white[:, :8] = 0
    found = frame_pixels(encoded(white, kind, full=True), UNKNOWN)[:3]
    assert (found[:, :, :8] < 1e-3).all() and (found[:, :, 8:] > 0.995).all()


def plain_frame(kind: str, width: int, height: int, *levels: int) -> av.VideoFrame:
    """A frame of one colour, by its code values."""
    frame = av.VideoFrame(width, height, kind)
    for plane, level in zip(frame.planes, levels, strict=True):
        dtype = np.uint8 if frame.format.components[0].bits <= 8 else np.uint16
        plane.update(np.full(plane.buffer_size // np.dtype(dtype).itemsize, level, dtype).tobytes())
    return frame


@pytest.mark.parametrize("size", [(321, 241), (1, 1), (3, 2), (64, 65)])
@pytest.mark.parametrize("kind", ["yuv420p", "yuv422p", "yuv411p", "yuv420p10le"])
def test_odd_sizes_are_read_whole(kind: str, size: tuple[int, int]) -> None:
    """By BT.601: (120 - 16) / 219 of luma, (90 - 128) / 224 of blue's difference, (200 - 128) / 224 of red's."""
    unit = 4 if kind.endswith("10le") else 1
    found = frame_pixels(plain_frame(kind, *size, 120 * unit, 90 * unit, 200 * unit), UNKNOWN)
    luma, blue, red = 104 / 219, -38 / 224, 72 / 224
    wanted = torch.tensor([luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue])
    assert found.shape == (3, size[1], size[0])
    assert (found - wanted[:, None, None]).abs().max() < 1e-4


def test_half_transparent_is_half() -> None:
    found = frame_pixels(plain_frame("yuva420p", 16, 8, 235, 128, 128, 127), UNKNOWN)
    assert found[:, 0, 0].tolist() == pytest.approx([1, 1, 1, 127 / 255])


@pytest.mark.parametrize(("matrix", "name"), [(8, "YCgCo"), (14, "ICtCp"), (99, "the matrix 99 of H.273")])
def test_colours_of_another_kind_are_named(matrix: int, name: str) -> None:
    frame = plain_frame("yuv444p", 8, 8, 100, 100, 100)
    with pytest.raises(ValueError, match=f"in {name}, which is not read; convert the video to BT.709"):
        frame_pixels(frame, ColourTags(matrix, 2, 2))


# --- Light ----------------------------------------------------------------------------------------------------------


def grey(value: float) -> Tensor:
    return torch.full((3, 1, 1), value)


@pytest.mark.parametrize(("pq", "hlg", "light"), [(0.38, 0.38, 26), (0.58, 0.75, 203), (0.75, 1.0, 1000)])
def test_light_is_what_the_report_on_hdr_says(pq: float, hlg: float, light: float) -> None:
    """BT.2408, table 1: a grey card, white paper, and the peak of the display; in whole per cent."""
    assert pq_light(torch.tensor(pq)).item() == pytest.approx(light, rel=0.03)
    assert hlg_light(grey(hlg)).flatten().tolist() == pytest.approx([light] * 3, rel=0.03)


def test_pq_has_ten_bits_for_ten_thousand() -> None:
    """BT.2100: 100 cd/m2 are the code value 509 of 64 to 940 (0.508)."""
    assert pq_values(torch.tensor(100.0)).item() == pytest.approx(0.508, abs=5e-4)
    assert pq_light(torch.tensor([0.0, 1.0])).tolist() == pytest.approx([0, 10000])
    values = torch.linspace(0, 1, 100)
    assert (pq_values(pq_light(values)) - values).abs().max() < 1e-4


@pytest.mark.parametrize("tags", [PQ, HLG], ids=["PQ", "HLG"])
def test_high_dynamic_range_is_brought_to_the_standard_one(tags: ColourTags) -> None:
    ramp = torch.linspace(0, 1, 256).expand(3, 1, 256)
    found = standard_range(ramp, tags)[:, 0]
    assert (found[0] - found[2]).abs().max() < 2e-3, "grey stays grey"
    assert found[0, 0] == 0 and found[0, -1] == pytest.approx(1, abs=1e-3)
    assert (found.diff(dim=1) >= -1e-6).all()


@pytest.mark.parametrize(("tags", "value"), [(PQ, 0.38), (HLG, 0.38), (PQ, 0.45), (HLG, 0.5)])
def test_what_is_dark_keeps_its_light(tags: ColourTags, value: float) -> None:
    """Below BT.2390's knee, at 93 of 203 cd/m2, nothing is compressed."""
    light = pq_light(torch.tensor(value)) if tags is PQ else hlg_light(grey(value))[0, 0, 0]
    assert light < 93
    assert standard_range(grey(value), tags)[0].item() == pytest.approx(
        (float(light) / 203) ** (1 / ON_A_SCREEN), rel=1e-3
    )


def test_highlights_are_rolled_off_by_the_curve_of_bt_2390() -> None:
    """White paper at 203 cd/m2, the new peak, goes where the report's formula puts it; hues stay."""
    highest = 0.5806 / 0.7518  # PQ's values of 203 and of 1000
    knee = 1.5 * highest - 0.5
    t = (highest - knee) / (1 - knee)
    value = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (3 * t**2 - 2 * t**3) * highest
    wanted = (float(pq_light(torch.tensor(value * 0.7518))) / 203) ** (1 / ON_A_SCREEN)
    assert standard_range(grey(0.5806), PQ)[1].item() == pytest.approx(wanted, abs=2e-3)
    bright = pq_values(torch.tensor([600.0, 300.0, 300.0]))[:, None, None]
    red, green, blue = (standard_range(bright, ColourTags(1, 1, 16)).flatten() ** ON_A_SCREEN).tolist()
    assert red / green == pytest.approx(2, rel=1e-3) and green == pytest.approx(blue)


def test_wide_colours_are_those_of_a_usual_screen() -> None:
    """BT.709's red, in BT.2020's primaries (BT.2087, table 1), comes back; what lies outside is cut off."""
    red = (torch.tensor([0.6274, 0.0691, 0.0164]) ** (1 / ON_A_SCREEN))[:, None, None]
    found = standard_range(red, ColourTags(9, 9, 14)).flatten()
    assert found.tolist() == pytest.approx([1, 0, 0], abs=0.05)
    assert standard_range(grey(0.5), ColourTags(9, 9, 14)).flatten().tolist() == pytest.approx([0.5] * 3, abs=1e-3)
    green = torch.tensor([0.0, 1.0, 0.0])[:, None, None]
    assert standard_range(green, ColourTags(9, 9, 1)).flatten().tolist() == [0, 1, 0]


def test_a_standard_range_is_left_alone() -> None:
    values = torch.rand(3, 4, 5)
    assert standard_range(values, ColourTags(1, 1, 1)) is values
