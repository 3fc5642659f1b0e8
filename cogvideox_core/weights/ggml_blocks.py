"""Blocks of GGML: so many numbers next to each other in a row, stored together with their scales.

Every function takes N blocks at once: b is [N, bytes of a block], uint8, and decodes to [N, numbers of a block],
float32. A block is divided into groups of equally many numbers, each with a scale of its own, and some with a minimum.

Source: ggml's `ggml-quants.c` for the bits of a block. The grids of the IQ formats come from the package gguf.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor


class BlockFormat(NamedTuple):
    """How many numbers a block has, how many bytes store them, and the functions that decode and encode blocks."""

    numbers: int
    nbytes: int
    decode: Callable[[Tensor], Tensor]
    encode: Callable[[Tensor], Tensor] | None = None


# --- Bytes --------------------------------------------------------------------------------------------------------


def _half(b: Tensor) -> Tensor:
    """[N, 2 n] bytes read as float16, [N, n] float32."""
    return b.contiguous().view(torch.float16).float()


def _int8(b: Tensor) -> Tensor:
    return b.contiguous().view(torch.int8).float()


def _int16(b: Tensor) -> Tensor:
    """[N, 2 n] bytes read as unsigned numbers of 16 bits, [N, n] int32."""
    return b.contiguous().view(torch.int16).int() & 0xFFFF


def _fields(b: Tensor, bits: int) -> Tensor:
    """[..., n] bytes as [..., 8 / bits, n] numbers of so many bits: the lowest bits of all bytes come first."""
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=b.device)[:, None]
    return (b.unsqueeze(-2) >> shifts) & ((1 << bits) - 1)


def _nibbles(b: Tensor) -> Tensor:
    """[N, n] bytes as [N, 2 n] numbers of 4 bits: all low halves, then all high halves."""
    return _fields(b, 4).flatten(1)


def _in_turn(b: Tensor, bits: int) -> Tensor:
    """[N, n] bytes as [N, 8 n / bits] numbers of so many bits: all of the first byte, then all of the second."""
    return _fields(b, bits).transpose(1, 2).flatten(1)


def _scaled(numbers: Tensor, scales: Tensor, minima: Tensor | None = None) -> Tensor:
    """Numbers [N, n] times the scales of their groups [N, groups], minus the minima [N, groups]; [N, n]."""
    groups = numbers.float().unflatten(1, (scales.shape[1], -1)) * scales[..., None]
    return (groups if minima is None else groups - minima[..., None]).flatten(1)


def _looked_up(numbers: Tensor, values: tuple[int, ...]) -> Tensor:
    """The values that numbers [...] stand for, float32."""
    return torch.tensor(values, dtype=torch.float32, device=numbers.device)[numbers.int()]


# --- One scale for a block of 32 ------------------------------------------------------------------------------------


def _q4_0(b: Tensor) -> Tensor:
    return _scaled(_nibbles(b[:, 2:]).float() - 8, _half(b[:, :2]))


def _q4_1(b: Tensor) -> Tensor:
    return _scaled(_nibbles(b[:, 4:]), _half(b[:, :2]), -_half(b[:, 2:4]))


def _five_bits(b: Tensor) -> Tensor:
    """The fifth bit of all 32 numbers comes first, in 4 bytes; bit i belongs to number i."""
    return _nibbles(b[:, 4:]) | (_in_turn(b[:, :4], 1) << 4)


def _q5_0(b: Tensor) -> Tensor:
    return _scaled(_five_bits(b[:, 2:]).float() - 16, _half(b[:, :2]))


def _q5_1(b: Tensor) -> Tensor:
    return _scaled(_five_bits(b[:, 4:]), _half(b[:, :2]), -_half(b[:, 2:4]))


def _q8_0(b: Tensor) -> Tensor:
    return _scaled(_int8(b[:, 2:]), _half(b[:, :2]))


def _encode_q8_0(x: Tensor) -> Tensor:
    scale = x.abs().amax(dim=1, keepdim=True) / 127
    numbers = (x * torch.where(scale > 0, 1 / scale, 0)).round().clamp(-128, 127).to(torch.int8)
    return torch.cat([scale.half().view(torch.uint8), numbers.view(torch.uint8)], dim=1)


def _encode_q4_0(x: Tensor) -> Tensor:
    """The number furthest from zero becomes -8, the end of the range that has no opposite."""
    furthest = x.gather(1, x.abs().argmax(dim=1, keepdim=True))
    scale = furthest / -8
    numbers = (x * torch.where(scale != 0, 1 / scale, 0) + 8.5).floor().clamp(0, 15).to(torch.uint8)
    return torch.cat([scale.half().view(torch.uint8), numbers[:, :16] | (numbers[:, 16:] << 4)], dim=1)


# --- Groups in a block of 256 ---------------------------------------------------------------------------------------


def _q2_k(b: Tensor) -> Tensor:
    """Sixteen groups, whose scales and minima have 4 bits each, times one float16 of the block."""
    scale, minimum = _half(b[:, 80:82]), _half(b[:, 82:])
    numbers = _fields(b[:, 16:80].unflatten(1, (2, 32)), 2)  # [N, 2, 4, 32]
    return _scaled(numbers.flatten(1), scale * (b[:, :16] & 15).float(), minimum * (b[:, :16] >> 4).float())


def _q3_k(b: Tensor) -> Tensor:
    """Sixteen groups of numbers from -4 to 3, whose scales have 6 bits. The top bits of all numbers come first."""
    top = _fields(b[:, :32], 1).flatten(1).float()
    numbers = _fields(b[:, 32:96].unflatten(1, (2, 32)), 2).flatten(1).float() + 4 * top - 4
    scales = _nibbles(b[:, 96:104]) | (_fields(b[:, 104:108], 2).flatten(1) << 4)
    return _scaled(numbers, _half(b[:, 108:]) * (scales.float() - 32))


def _scales_and_minima(b: Tensor) -> tuple[Tensor, Tensor]:
    """Scales and minima of eight groups, [N, 8] each, from the first 16 bytes of a block.

    They have 6 bits each, times one float16 of the block. Those of groups 0 to 3 are the low 6 bits of `low` and
    `middle`; of groups 4 to 7, `high` holds 4 bits, and the top bits of `low` and `middle` the other two.
    """
    scale, minimum = _half(b[:, :2]), _half(b[:, 2:4])
    low, middle, high = b[:, 4:16].chunk(3, dim=1)  # 4 bytes each
    scales = torch.cat([low & 63, (high & 15) | ((low >> 6) << 4)], dim=1)
    minima = torch.cat([middle & 63, (high >> 4) | ((middle >> 6) << 4)], dim=1)
    return scale * scales.float(), minimum * minima.float()


def _q4_k(b: Tensor) -> Tensor:
    numbers = _fields(b[:, 16:].unflatten(1, (4, 32)), 4)  # 32 bytes hold two groups: low halves, then high ones
    return _scaled(numbers.flatten(1), *_scales_and_minima(b))


def _q5_k(b: Tensor) -> Tensor:
    top = _fields(b[:, 16:48], 1).flatten(1)
    numbers = _fields(b[:, 48:].unflatten(1, (4, 32)), 4).flatten(1) | (top << 4)
    return _scaled(numbers, *_scales_and_minima(b))


def _q6_k(b: Tensor) -> Tensor:
    """Sixteen groups of numbers from -32 to 31. Each half of a block has 64 bytes of low and 32 bytes of top bits."""
    low = _fields(b[:, :128].unflatten(1, (2, 64)), 4).flatten(1)
    top = _fields(b[:, 128:192].unflatten(1, (2, 32)), 2).flatten(1)
    return _scaled((low | (top << 4)).float() - 32, _half(b[:, 208:]) * _int8(b[:, 192:208]))


def _q8_k(b: Tensor) -> Tensor:
    """One float32 and 256 numbers; the sums behind them are for products only."""
    return _scaled(_int8(b[:, 4:260]), b[:, :4].contiguous().view(torch.float32))


def _powers_of_three(b: Tensor, count: int) -> Tensor:
    """[N, n] bytes as [N, count * n] numbers from -1 to 1: the digits in base 3 of the fraction byte / 256."""
    powers = 3 ** torch.arange(count, device=b.device)[:, None]
    return (((b[:, None].int() * powers) & 255) * 3 >> 8).flatten(1).float() - 1


def _tq1_0(b: Tensor) -> Tensor:
    parts = ((b[:, :32], 5), (b[:, 32:48], 5), (b[:, 48:52], 4))
    return _scaled(torch.cat([_powers_of_three(*part) for part in parts], dim=1), _half(b[:, 52:]))


def _tq2_0(b: Tensor) -> Tensor:
    return _scaled(_fields(b[:, :64].unflatten(1, (2, 32)), 2).flatten(1).float() - 1, _half(b[:, 64:]))


# --- Numbers of 4 bits that stand for others ------------------------------------------------------------------------

_IQ4_VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
_FP4_DOUBLED = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)  # of 2 bits for the exponent, one behind it


def _iq4_nl(b: Tensor) -> Tensor:
    return _scaled(_looked_up(_nibbles(b[:, 2:]), _IQ4_VALUES), _half(b[:, :2]))


def _iq4_xs(b: Tensor) -> Tensor:
    """Eight groups, whose scales have 6 bits: their top bits first."""
    scales = _in_turn(b[:, 4:8], 4) | (_in_turn(b[:, 2:4], 2) << 4)
    numbers = _fields(b[:, 8:].unflatten(1, (8, 16)), 4).flatten(1)
    return _scaled(_looked_up(numbers, _IQ4_VALUES), _half(b[:, :2]) * (scales.float() - 32))


def _mxfp4(b: Tensor) -> Tensor:
    """The scale is a power of two: an exponent of float32, of half of what it says since the values are doubled."""
    exponent = b[:, :1].int()
    scale = torch.where(exponent < 2, 0x00200000 << exponent, (exponent - 1) << 23).view(torch.float32)
    return _scaled(_looked_up(_nibbles(b[:, 1:]), _FP4_DOUBLED), scale)


def _nvfp4(b: Tensor) -> Tensor:
    """Four groups of 16 numbers, whose scales are 8-bit floats without a sign; what is no number counts as zero."""
    scales = (b[:, :4] & 0x7F).view(torch.float8_e4m3fn).float().nan_to_num(0) / 2
    numbers = _fields(b[:, 4:].unflatten(1, (4, 8)), 4).flatten(1)
    return _scaled(_looked_up(numbers, _FP4_DOUBLED), scales)


# --- Vectors of a grid ----------------------------------------------------------------------------------------------
# Eight or four numbers at a time are one vector of a grid of 256 to 2048, and one sign each.


@lru_cache(maxsize=32)
def _grid(name: str, device: torch.device) -> Tensor:
    """The vectors of a format, [vectors, 8 or 4] float32. Raises: ImportError without the package gguf."""
    try:
        from gguf import quants
    except ImportError as error:
        raise ImportError(f"weights in {name} need the package gguf; run: pip install gguf") from error
    table = getattr(quants, name)
    table.init_grid()
    with torch.inference_mode(False):  # kept for calls outside of it too
        return torch.from_numpy(table.grid.reshape(table.grid_shape)).to(device)


def _from_grid(name: str, indices: Tensor) -> Tensor:
    """The numbers [N, 256] of the vectors with these indices [N, 256 / 8 or / 4]."""
    return _grid(name, indices.device)[indices.int()].flatten(1)


def _signs(b: Tensor) -> Tensor:
    """A sign for each bit of bytes [N, n]: 1 or -1, [N, 8 n] float32."""
    return 1 - 2 * _in_turn(b, 1).float()


def _signs_by_parity(sevens: Tensor) -> Tensor:
    """Signs of 8 numbers from each 7 bits, [N, n] int32: an even number of them is negative; [N, 8 n] float32."""
    folded = sevens ^ (sevens >> 4)
    folded = folded ^ (folded >> 2)
    parity = (folded ^ (folded >> 1)) & 1
    return _signs((sevens | (parity << 7)).to(torch.uint8))


def _scales_and_signs(b: Tensor) -> tuple[Tensor, Tensor]:
    """Of [N, 4 n] bytes, for each 32 numbers: a scale of 4 bits and a half, [N, n], and the signs, [N, 32 n]."""
    words = b.contiguous().view(torch.int32)
    sevens = (words[..., None] >> torch.arange(0, 28, 7, device=b.device)) & 127  # [N, n, 4]
    return ((words >> 28) & 15).float() + 0.5, _signs_by_parity(sevens.flatten(1).int())


def _iq2_xxs(b: Tensor) -> Tensor:
    groups = b[:, 2:].unflatten(1, (8, 8))  # 4 indices, then scale and signs
    scales, signs = _scales_and_signs(groups[..., 4:].flatten(1))
    return _scaled(_from_grid("IQ2_XXS", groups[..., :4].flatten(1)) * signs, _half(b[:, :2]) * scales / 4)


def _iq2_xs(b: Tensor) -> Tensor:
    indices = _int16(b[:, 2:66])  # of 9 bits, then 7 bits of signs
    scales = _half(b[:, :2]) * (_in_turn(b[:, 66:], 4).float() + 0.5) / 4
    return _scaled(_from_grid("IQ2_XS", indices & 511) * _signs_by_parity(indices >> 9), scales)


def _iq2_s(b: Tensor) -> Tensor:
    indices = b[:, 2:34].int() | (_in_turn(b[:, 66:74], 2).int() << 8)
    scales = _half(b[:, :2]) * (_in_turn(b[:, 74:], 4).float() + 0.5) / 4
    return _scaled(_from_grid("IQ2_S", indices) * _signs(b[:, 34:66]), scales)


def _iq3_xxs(b: Tensor) -> Tensor:
    scales, signs = _scales_and_signs(b[:, 66:])
    return _scaled(_from_grid("IQ3_XXS", b[:, 2:66]) * signs, _half(b[:, :2]) * scales / 2)


def _iq3_s(b: Tensor) -> Tensor:
    indices = b[:, 2:66].int() | (_in_turn(b[:, 66:74], 1).int() << 8)
    scales = _half(b[:, :2]) * (2 * _in_turn(b[:, 106:], 4).float() + 1)
    return _scaled(_from_grid("IQ3_S", indices) * _signs(b[:, 74:106]), scales)


def _shifted(vectors: Tensor, is_lower: Tensor) -> Tensor:
    """The numbers -1, 0 and 1 of vectors, [N, 256], an eighth lower or higher by groups, [N, groups]."""
    shifts = torch.where(is_lower, -0.125, 0.125)
    return (vectors.unflatten(1, (shifts.shape[1], -1)) + shifts[..., None]).flatten(1)


def _iq1_s(b: Tensor) -> Tensor:
    """Eight groups: of each, 16 bits hold the top bits of 4 indices, a scale of 3 bits, and whether it is lower."""
    words = _int16(b[:, 34:])
    top = (words[..., None] >> torch.arange(0, 12, 3, device=b.device)) & 7  # [N, 8, 4]
    vectors = _from_grid("IQ1_S", b[:, 2:34].int() | (top.flatten(1) << 8))
    scales = _half(b[:, :2]) * (2 * ((words >> 12) & 7) + 1).float()
    return _scaled(_shifted(vectors, words >= 0x8000), scales)


def _iq1_m(b: Tensor) -> Tensor:
    """Sixteen groups, whose scales have 3 bits; of the four words with them, the top bits are the block's float16."""
    pieces = b[:, 49::2] >> 4  # 4 bits each, the lowest first
    scale = _half(pieces[:, ::2] | (pieces[:, 1::2] << 4))
    scales = (_int16(b[:, 48:])[..., None] >> torch.arange(0, 12, 3, device=b.device)) & 7  # [N, 4, 4]
    top = _in_turn(b[:, 32:48], 4)  # of each index 3 bits, and whether its vector is lower
    vectors = _from_grid("IQ1_M", b[:, :32].int() | ((top & 7).int() << 8))
    return _scaled(_shifted(vectors, top >= 8), scale * (2 * scales.flatten(1) + 1).float())


FORMATS: dict[str, BlockFormat] = {
    "Q4_0": BlockFormat(32, 18, _q4_0, _encode_q4_0),  # the first ones are those that messages name
    "Q5_0": BlockFormat(32, 22, _q5_0),
    "Q8_0": BlockFormat(32, 34, _q8_0, _encode_q8_0),
    "Q4_K": BlockFormat(256, 144, _q4_k),
    "Q6_K": BlockFormat(256, 210, _q6_k),
    "Q5_K": BlockFormat(256, 176, _q5_k),
    "Q3_K": BlockFormat(256, 110, _q3_k),
    "Q2_K": BlockFormat(256, 84, _q2_k),
    "Q8_K": BlockFormat(256, 292, _q8_k),
    "Q4_1": BlockFormat(32, 20, _q4_1),
    "Q5_1": BlockFormat(32, 24, _q5_1),
    "IQ4_NL": BlockFormat(32, 18, _iq4_nl),
    "IQ4_XS": BlockFormat(256, 136, _iq4_xs),
    "IQ3_S": BlockFormat(256, 110, _iq3_s),
    "IQ3_XXS": BlockFormat(256, 98, _iq3_xxs),
    "IQ2_S": BlockFormat(256, 82, _iq2_s),
    "IQ2_XS": BlockFormat(256, 74, _iq2_xs),
    "IQ2_XXS": BlockFormat(256, 66, _iq2_xxs),
    "IQ1_M": BlockFormat(256, 56, _iq1_m),
    "IQ1_S": BlockFormat(256, 50, _iq1_s),
    "TQ1_0": BlockFormat(256, 54, _tq1_0),
    "TQ2_0": BlockFormat(256, 66, _tq2_0),
    "MXFP4": BlockFormat(32, 17, _mxfp4),
    "NVFP4": BlockFormat(64, 36, _nvfp4),
}
"""The formats of blocks by GGML's names."""
