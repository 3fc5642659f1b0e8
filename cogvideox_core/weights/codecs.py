"""Codecs: how quantized weights are stored, as blocks of GGML, or as numbers of 8 or 4 bits with scales.

A codec decodes stored bytes to numbers and, where this pack writes the format, encodes numbers to stored bytes. Block
formats store each row of a matrix by itself: [..., columns] becomes [..., bytes of a row], uint8.

Source: `ggml_blocks.py` for blocks; ComfyUI's `quant_ops.py` for scales; bitsandbytes' `functional.py` for 4 bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from .ggml_blocks import FORMATS, BlockFormat

Stored = dict[str, Tensor]
"""The parts of a stored tensor: "data", and "scale" where the format has one; the numbers are data times scale."""


@dataclass(frozen=True)
class Codec:
    """One number format.

    Attributes:
        name: the format's usual name.
        decode: the stored parts to float32 numbers: from [..., bytes of a row] to [..., columns] for block formats,
            else in the shape of "data". A part that the format needs and that is missing raises KeyError.
        encode: float32 numbers [rows, columns] to the stored parts; None where the format is only read.
        block, block_bytes: numbers in a block and the bytes that store them; 0 for formats without blocks.
    """

    name: str
    decode: Callable[[Stored], Tensor]
    encode: Callable[[Tensor], Stored] | None = None
    block: int = 0
    block_bytes: int = 0

    def shape(self, data_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the decoded numbers, from the shape of "data"."""
        if not self.block:
            return data_shape
        return *data_shape[:-1], data_shape[-1] // self.block_bytes * self.block

    def stored_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of "data", from the shape of the numbers."""
        if not self.block:
            return shape
        return *shape[:-1], shape[-1] // self.block * self.block_bytes

    def fits(self, data_shape: tuple[int, ...]) -> bool:
        """Whether rows of that many bytes are whole blocks."""
        return not self.block or (len(data_shape) > 0 and data_shape[-1] % self.block_bytes == 0)


def _blocks(name: str, layout: BlockFormat) -> Codec:
    """A codec for rows of blocks, made of functions for blocks."""
    encode = layout.encode

    def decode_rows(stored: Stored) -> Tensor:
        data = stored["data"]
        return layout.decode(data.reshape(-1, layout.nbytes)).reshape(*data.shape[:-1], -1)

    def encode_rows(x: Tensor) -> Stored:
        assert encode is not None
        return {"data": encode(x.reshape(-1, layout.numbers)).reshape(*x.shape[:-1], -1)}

    return Codec(name, decode_rows, encode_rows if encode else None, layout.numbers, layout.nbytes)


# --- Numbers with a scale ---------------------------------------------------------------------------------------------


def _decode_fp8(stored: Stored) -> Tensor:
    """Older files have fp8 without scales."""
    return _decode_scaled(stored) if "scale" in stored else stored["data"].float()


def _decode_scaled(stored: Stored) -> Tensor:
    """One scale for all numbers, [], or one that repeats along the dimensions where it has 1, such as [rows, 1]."""
    return stored["data"].float() * stored["scale"].float()


def _decode_groups(stored: Stored) -> Tensor:
    """Data [rows, columns] with a scale [rows, groups] for each so many columns."""
    return _times_groups(stored["data"].float(), stored["scale"])


def _decode_4_bits(stored: Stored, values: tuple[float, ...]) -> Tensor:
    """Data [rows, columns / 2], of each byte the high half first, with scales [rows, groups]."""
    data = stored["data"]
    numbers = torch.stack([data >> 4, data & 15], dim=-1).flatten(-2)
    return _times_groups(torch.tensor(values, dtype=torch.float32, device=data.device)[numbers.int()], stored["scale"])


def _times_groups(numbers: Tensor, scale: Tensor) -> Tensor:
    """Numbers [rows, columns] times the scales [rows, groups] of their groups; [rows, columns]."""
    return (numbers.unflatten(-1, (scale.shape[-1], -1)) * scale.float()[..., None]).flatten(-2)


def _encode_int8(x: Tensor) -> Stored:
    """A scale for each row: x [rows, columns] to data of that shape and scale [rows, 1]."""
    largest = x.abs().amax(dim=1, keepdim=True).clamp_min(1e-30)
    scale = largest / x.new_tensor(127.0)  # divided by a tensor: a GPU then rounds as a CPU does
    return {"data": (x / scale).round().clamp(-127, 127).to(torch.int8), "scale": scale}


def _encode_fp8(x: Tensor) -> Stored:
    """One scale for all: x [rows, columns] to data of that shape and scale []."""
    scale = (x.abs().amax() / torch.finfo(torch.float8_e4m3fn).max).clamp_min(1e-30)
    return {"data": (x / scale).to(torch.float8_e4m3fn), "scale": scale}


_FP4_MAGNITUDES = tuple(twelfths / 12 for twelfths in (0, 0.0625, 8, 12, 4, 6, 2, 3))
FOUR_BITS: dict[str, tuple[float, ...]] = {
    "nf4": (
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
        *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
        *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    ),
    "fp4": (*_FP4_MAGNITUDES, *(-value for value in _FP4_MAGNITUDES)),
}
"""What the 16 numbers of bitsandbytes' formats stand for, before the scale: quantiles of a normal distribution, and
floats with 2 bits for the exponent and one behind it."""

GGML: dict[str, Codec] = {name: _blocks(name, layout) for name, layout in FORMATS.items()}
"""The codecs of GGML's blocks, by name."""

_WITH_SCALES = (
    Codec("int8", _decode_scaled, _encode_int8),
    Codec("fp8", _decode_fp8, _encode_fp8),
    Codec("int8 in groups", _decode_groups),
    Codec("fp8 in groups", _decode_groups),
    Codec("nf4", partial(_decode_4_bits, values=FOUR_BITS["nf4"]), block=2, block_bytes=1),
    Codec("fp4", partial(_decode_4_bits, values=FOUR_BITS["fp4"]), block=2, block_bytes=1),
)
CODECS: dict[str, Codec] = GGML | {codec.name: codec for codec in _WITH_SCALES}
