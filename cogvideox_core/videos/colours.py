"""Decoded frames as RGB: code values to light and back, by what a file says of its colours.

Planes are read as they are decoded, since FFmpeg's own scaler writes some pixels wrong when a width is odd. What a file
leaves out is taken as FFmpeg takes it: BT.601, limited range. High dynamic range (PQ, HLG) is brought to the standard
one by ITU's own curve, and BT.2020's wide colours to those of BT.709.

Letters: H W rows and columns of a frame. R'G'B' are values as they are stored, RGB without a prime is light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .pixels import KB, KR

if TYPE_CHECKING:
    from av import VideoFrame

_LIMITED, _FULL = 1, 2  # a frame's `color_range`: black is 16, or its multiple in more bits; or black is 0

# Numbers of ITU-T H.273, which files and FFmpeg use.
_RGB, _UNKNOWN, _FFMPEGS_DEFAULT = 0, 2, 5
_BT2020 = _BT2020_PRIMARIES = 9
_HDR = {16: "PQ", 18: "HLG"}  # transfer functions
# Red's and blue's share of luma: what a YUV matrix is made of (H.273, table 4).
_LUMA_SHARES = {
    1: (KR, KB),  # BT.709
    4: (0.30, 0.11),  # FCC
    5: (0.299, 0.114),  # BT.601, 625 lines
    6: (0.299, 0.114),  # BT.601, 525 lines
    7: (0.212, 0.087),  # SMPTE 240M
    9: (0.2627, 0.0593),  # BT.2020
    10: (0.2627, 0.0593),  # BT.2020, constant luminance, read as the usual kind
}
_MATRIX_OF_PRIMARIES = {1: 1, 5: 5, 6: 6, 7: 7, 9: 9}
_NAMES = {8: "YCgCo", 14: "ICtCp", 15: "IPT", 16: "YCgCo-R", 17: "YCgCo-R"}

# Source: ITU-R BT.2087, table 2 (the matrix of BT.2020's primaries to BT.709's).
_BT2020_TO_BT709 = ((1.6605, -0.5876, -0.0728), (-0.1246, 1.1329, -0.0083), (-0.0182, -0.1006, 1.1187))
_GAMMA = 2.4  # of a BT.709 display (ITU-R BT.1886)
_WHITE = 203.0  # cd/m2 of white paper in a high dynamic range (ITU-R BT.2408); here the brightest there is
_PEAK = 1000.0  # cd/m2 of the display that such videos are made for
# Sources: ITU-R BT.2100, table 4 (PQ) and table 5 (HLG).
_PQ_M1, _PQ_M2, _PQ_C1, _PQ_C2, _PQ_C3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
_HLG_A, _HLG_B, _HLG_C, _HLG_GAMMA = 0.17883277, 0.28466892, 0.55991073, 1.2


class ColourTags(NamedTuple):
    """What a file says of its colours: numbers of H.273, 2 where it says nothing."""

    matrix: int
    primaries: int
    transfer: int

    @property
    def hdr(self) -> str | None:
        """The name of the high dynamic range; None for a standard one."""
        return _HDR.get(self.transfer)


class Levels(NamedTuple):
    """Code values of 8 bits: which one is 0 in limited and in full range, and how many a limited range of 1 has."""

    zero: float
    full_zero: float
    range: float


_LUMA, _CHROMA = Levels(16, 0, 219), Levels(128, 128, 224)


def frame_pixels(frame: VideoFrame, tags: ColourTags) -> Tensor:
    """A decoded frame as [3, H, W] in [0, 1] for a BT.709 display; [4, H, W] with alpha where the frame has some.

    Raises: ValueError for a kind of colours that is not read.
    """
    values, alpha = _code_values(frame, tags)
    values = standard_range(values.clamp(0, 1), tags)
    return values if alpha is None else torch.cat([values, alpha])


# --- Decoded frames -------------------------------------------------------------------------------------------------


def _code_values(frame: VideoFrame, tags: ColourTags) -> tuple[Tensor, Tensor | None]:
    """R'G'B' [3, H, W], about from 0 to 1, and alpha [1, H, W] if there is some."""
    frame = _planar(frame)
    components = list(frame.format.components)
    alpha = _plane(frame, components.pop(), _LUMA, full=True)[None] if components[-1].is_alpha else None
    if frame.format.is_rgb:
        return torch.stack([_plane(frame, component, _LUMA, full=True) for component in components]), alpha
    full = _has_full_range(frame)
    luma = _plane(frame, components[0], _LUMA, full=full)  # [H, W]
    if len(components) == 1:
        return luma.expand(3, -1, -1), alpha
    chroma = torch.stack([_plane(frame, component, _CHROMA, full=full) for component in components[1:]])
    return _from_yuv(luma, _as_large(chroma, luma), _matrix(tags)), alpha


def _planar(frame: VideoFrame) -> VideoFrame:
    """The same pixels with each component in a plane of its own, where they have none; nothing is resampled."""
    kind = frame.format
    bits = max(component.bits for component in kind.components)
    packed = len({component.plane for component in kind.components}) < len(kind.components)
    if not packed and not kind.is_bit_stream and not kind.has_palette and bits <= 16 and "msb" not in kind.name:
        return frame
    alpha = "a" if kind.has_palette or kind.components[-1].is_alpha else ""
    if kind.is_rgb or kind.has_palette or len(kind.components) < 3:
        return frame.reformat(format=f"gbr{alpha}p" + ("16le" if bits > 8 else ""))
    rows, columns = kind.chroma_height(16), kind.chroma_width(16)
    sampling = "420" if rows == 8 and not alpha else "422" if columns == 8 and not alpha else "444"
    return frame.reformat(format=f"yuv{alpha}{sampling}p" + ("10le" if bits > 8 else ""))


def _has_full_range(frame: VideoFrame) -> bool:
    """Whether black is 0. FFmpeg counts grey as such where the file does not say."""
    if len(frame.format.components) < 3 and frame.color_range != _LIMITED:
        return True
    return frame.color_range == _FULL or frame.format.name.startswith("yuvj")


def _plane(frame: VideoFrame, component: Any, levels: Levels, *, full: bool) -> Tensor:
    """A component [H, W] as light or dark from 0 to 1, or as a difference from grey from -0.5 to 0.5."""
    plane = frame.planes[component.plane]
    kind = "u1" if component.bits <= 8 else ">u2" if frame.format.name.endswith("be") else "<u2"
    values = np.frombuffer(plane, kind).reshape(-1, plane.line_size // np.dtype(kind).itemsize)
    values = torch.from_numpy(values[: component.height, : component.width].astype(np.float32))
    unit = 2.0 ** (component.bits - 8)  # levels are given for 8 bits
    if full:
        return values.sub_(levels.full_zero * unit).div_(2**component.bits - 1)
    return values.div_(unit).sub_(levels.zero).div_(levels.range)


def _as_large(chroma: Tensor, luma: Tensor) -> Tensor:
    """Planes [2, h, w] of fewer samples in the size of luma [H, W]; odd sides are rounded up in them."""
    size = [round(whole / part) * part for whole, part in zip(luma.shape, chroma.shape[1:], strict=True)]
    if size == list(chroma.shape[1:]):
        return chroma
    return F.interpolate(chroma[None], size, mode="bilinear")[0, :, : luma.shape[0], : luma.shape[1]]


def _matrix(tags: ColourTags) -> int:
    """The number of the YUV matrix. Raises: ValueError for one that is none of red's, green's and blue's shares."""
    matrix = tags.matrix
    if matrix in (_RGB, _UNKNOWN):
        matrix = _MATRIX_OF_PRIMARIES.get(tags.primaries, _FFMPEGS_DEFAULT)
    if matrix not in _LUMA_SHARES:
        name = _NAMES.get(matrix, f"the matrix {matrix} of H.273")
        raise ValueError(f"its colours are in {name}, which is not read; convert the video to BT.709")
    return matrix


def _from_yuv(luma: Tensor, chroma: Tensor, matrix: int) -> Tensor:
    """R'G'B' [3, H, W] of luma [H, W] and the differences of blue and red [2, H, W]."""
    red_share, blue_share = _LUMA_SHARES[matrix]
    blue = luma + 2 * (1 - blue_share) * chroma[0]
    red = luma + 2 * (1 - red_share) * chroma[1]
    green = (luma - red_share * red - blue_share * blue) / (1 - red_share - blue_share)
    return torch.stack([red, green, blue])


# --- Light ----------------------------------------------------------------------------------------------------------


def standard_range(values: Tensor, tags: ColourTags) -> Tensor:
    """R'G'B' [3, H, W] of a file as those of a BT.709 display, both in [0, 1]."""
    wide = tags.primaries == _BT2020_PRIMARIES
    if tags.hdr is None and not wide:
        return values
    light = {"PQ": pq_light, "HLG": hlg_light}[tags.hdr](values) / _WHITE if tags.hdr else values**_GAMMA
    if wide:
        light = torch.einsum("oi,ihw->ohw", torch.tensor(_BT2020_TO_BT709), light).clamp_(min=0)
    if tags.hdr:
        light = _compressed(light)
    return light.clamp_(0, 1) ** (1 / _GAMMA)


def pq_light(values: Tensor) -> Tensor:
    """cd/m2 of PQ's code values in [0, 1]."""
    root = values ** (1 / _PQ_M2)
    return 10000 * ((root - _PQ_C1).clamp(min=0) / (_PQ_C2 - _PQ_C3 * root)) ** (1 / _PQ_M1)


def pq_values(light: Tensor) -> Tensor:
    """PQ's code values in [0, 1] of light in cd/m2."""
    power = (light / 10000) ** _PQ_M1
    return ((_PQ_C1 + _PQ_C2 * power) / (1 + _PQ_C3 * power)) ** _PQ_M2


def hlg_light(values: Tensor) -> Tensor:
    """cd/m2, on a display of 1000, of HLG's code values [3, H, W] in [0, 1] with BT.2020's primaries."""
    scene = torch.where(values <= 0.5, values**2 / 3, (((values - _HLG_C) / _HLG_A).exp() + _HLG_B) / 12)
    red_share, blue_share = _LUMA_SHARES[_BT2020]
    shares = torch.tensor([red_share, 1 - red_share - blue_share, blue_share])
    luminance = torch.einsum("i,ihw->hw", shares, scene)
    return _PEAK * luminance ** (_HLG_GAMMA - 1) * scene


def _compressed(light: Tensor) -> Tensor:
    """Light [3, H, W] up to the peak brought to [0, 1]: what is dark stays, highlights are rolled off, hues are kept.

    Source: ITU-R BT.2390, the electro-electrical transfer function, on the brightest of the three.
    """
    brightest = light.amax(0).clamp(min=1e-6)  # [H, W], 1 is white paper
    peak, white = (float(pq_values(torch.tensor(light))) for light in (_PEAK, _WHITE))
    part = (pq_values(brightest * _WHITE) / peak).clamp(max=1)
    highest = white / peak
    knee = 1.5 * highest - 0.5
    t = (part - knee) / (1 - knee)
    rolled = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (3 * t**2 - 2 * t**3) * highest
    part = torch.where(part < knee, part, rolled)
    return light * (pq_light(part * peak) / _WHITE / brightest)
