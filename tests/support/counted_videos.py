"""Video files whose frames say their number, written with PyAV as cameras and programs write them.

The upper half of a picture is the number in eight bars, black or white, the highest digit first. The lower half has a
red left and a blue right side, so that a picture which lies on its side or is mirrored is not taken for another.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from torch import Tensor

_DIGITS = 8
RED, BLUE = (220, 30, 40), (40, 60, 210)

Matrix = tuple[int, int, int, int]
UPRIGHT: Matrix = (1, 0, 0, 1)
MATRICES: dict[str, Matrix] = {
    "upright": UPRIGHT,
    "to the right": (0, 1, -1, 0),
    "on its head": (-1, 0, 0, -1),
    "to the left": (0, -1, 1, 0),
    "left to right": (-1, 0, 0, 1),
    "upside down": (1, 0, 0, -1),
    "transposed": (0, 1, 1, 0),
    "transposed, on its head": (0, -1, -1, 0),
}
"""What a header can do to a picture: column x and row y go to column a x + c y and row b x + d y of (a, b, c, d)."""


class Kind(NamedTuple):
    """How a file is encoded."""

    codec: str
    pixels: str = "yuv420p"
    options: dict[str, str] = {}


KINDS = {
    ".mp4": Kind("libx264"),
    ".MP4": Kind("libx264"),
    ".mov": Kind("prores_ks", "yuv422p10le"),
    ".webm": Kind("libvpx-vp9"),
    ".mkv": Kind("libx265", "yuv420p10le", {"x265-params": "log-level=none"}),
    ".avi": Kind("mpeg4"),
    ".gif": Kind("gif", "rgb8"),
}
"""What is usual in files of these endings."""


def picture(number: int, width: int, height: int) -> np.ndarray:
    """[H, W, 3] in 8 bits."""
    pixels = np.empty((height, width, 3), np.uint8)
    digits = np.array([number >> digit & 1 for digit in reversed(range(_DIGITS))])
    bars = digits[np.arange(width) * _DIGITS // width]
    pixels[: height // 2] = (16 + 223 * bars)[None, :, None]
    pixels[height // 2 :, : width // 2] = RED
    pixels[height // 2 :, width // 2 :] = BLUE
    return pixels


def number_of(frame: Tensor) -> int:
    """The number in a picture [3, H, W] in [0, 1], whatever it was encoded with.

    Raises: AssertionError if it is not upright.
    """
    _, height, width = frame.shape
    red, blue = frame[:, height * 3 // 4, width // 4], frame[:, height * 3 // 4, width * 3 // 4]
    assert red[0] > red[2] + 0.2 and blue[2] > blue[0] + 0.2, "the picture does not stand upright"
    row = frame[:, height // 4].mean(0)
    digits = [int(row[(2 * digit + 1) * width // (2 * _DIGITS)] > 0.5) for digit in range(_DIGITS)]
    return int("".join(map(str, digits)), 2)


def numbers_of(frames: Tensor) -> list[int]:
    """The numbers of frames [1, 3, F, H, W]."""
    return [number_of(frame) for frame in frames[0].unbind(1)]


def write_counted(
    path: Path, count: int, fps: float, *, size: tuple[int, int] = (96, 64), kind: Kind | None = None, **more: Any
) -> Path:
    """A video of `count` numbered pictures, width and height in `size`; `more` as for `write_pictures`."""
    return write_pictures(path, [picture(number, *size) for number in range(count)], fps, kind=kind, **more)


def write_pictures(
    path: Path,
    pictures: Sequence[np.ndarray],
    fps: float,
    *,
    kind: Kind | None = None,
    matrix: Matrix = UPRIGHT,
    milliseconds: Sequence[int] | None = None,
) -> Path:
    """A video of pictures [H, W, 3 or 4] in 8 bits.

    Args:
        kind: None for what is usual with the file's ending.
        matrix: what the header says is to be done to the pictures (.mp4 and .mov).
        milliseconds: the time of each picture, in place of a constant rate.
    """
    codec, pixels, options = kind or KINDS[path.suffix]
    rate = Fraction(1000) if milliseconds else Fraction(fps).limit_denominator(1001)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=dict(options))
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pixels
        for number, values in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(values, format="rgba" if values.shape[2] == 4 else "rgb24")
            frame = frame.reformat(format=pixels)
            frame.pts, frame.time_base = (milliseconds[number] if milliseconds else number), 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    if matrix != UPRIGHT:
        _turn(path, matrix)
    return path


def _turn(path: Path, matrix: Matrix) -> None:
    """Put a display matrix into the track header, where phones have it (ISO 14496-12, 8.3.2)."""
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 4 + 4 + 5 * 4 + 2 * 4 + 4 * 2
    assert struct.unpack_from(">9i", content, place) == (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    a, b, c, d = (value << 16 for value in matrix)
    struct.pack_into(">9i", content, place, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
