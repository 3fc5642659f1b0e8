"""Codecs: how quantized weights are stored, as blocks of GGML, 8-bit integers, or 8-bit floats with a scale.

A codec decodes stored bytes to numbers and, where this pack writes the format, encodes numbers to stored bytes. Block
formats store each row of a matrix by itself: [..., columns] becomes [..., bytes of a row], uint8.

Source: ggml's `ggml-quants.c` for the bits of a block; ComfyUI's `quant_ops.py` for scales.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Stored = dict[str, Tensor]
"""The parts of a stored tensor: "data", and "scale" where the format has one; the numbers are data times scale."""


@dataclass(frozen=True)
class Codec:
    """One number format.

    Attributes:
        name: the format's usual name.
        decode: the stored parts to float32 numbers: from [..., bytes of a row] to [..., columns] for block formats,
            else in the shape of "data".
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


# --- Blocks of GGML -----------------------------------------------------------------------------------------------
# Each function takes N blocks at once: b is [N, bytes of a block], uint8, and decodes to [N, numbers of a block].


def _float16(b: Tensor) -> Tensor:
    """[N, 2 n] bytes read as float16, [N, n] float32."""
    return b.contiguous().view(torch.float16).float()


def _nibbles(b: Tensor) -> Tensor:
    """[N, n] bytes as [N, 2 n] numbers of 4 bits: all low halves, then all high halves."""
    return torch.cat([b & 0x0F, b >> 4], dim=1)


def _decode_q8_0(b: Tensor) -> Tensor:
    return _float16(b[:, :2]) * b[:, 2:].contiguous().view(torch.int8).float()


def _decode_q4_0(b: Tensor) -> Tensor:
    return _float16(b[:, :2]) * (_nibbles(b[:, 2:]).float() - 8)


def _decode_q5_0(b: Tensor) -> Tensor:
    # The fifth bit of all 32 numbers comes first, in 4 bytes; bit i belongs to number i.
    bits = (b[:, 2:6, None] >> torch.arange(8, dtype=torch.uint8, device=b.device)) & 1
    return _float16(b[:, :2]) * ((_nibbles(b[:, 6:]) | (bits.flatten(1) << 4)).float() - 16)


def _decode_q4_k(b: Tensor) -> Tensor:
    """Eight groups of 32 numbers of 4 bits. A group is its scale times the numbers, minus its minimum.

    Scales and minima have 6 bits each, times one float16 of the block. Those of groups 0 to 3 are the low 6 bits of
    `low` and `middle`; of groups 4 to 7, `high` holds 4 bits, and the top bits of `low` and `middle` the other two.
    """
    scale, minimum = _float16(b[:, :2]), _float16(b[:, 2:4])
    low, middle, high = b[:, 4:16].chunk(3, dim=1)  # 4 bytes each
    scales = torch.cat([low & 63, (high & 15) | ((low >> 6) << 4)], dim=1)
    minima = torch.cat([middle & 63, (high >> 4) | ((middle >> 6) << 4)], dim=1)
    q = b[:, 16:].unflatten(1, (4, 32))  # 32 bytes hold two groups: one in the low halves, the next in the high ones
    groups = torch.stack([q & 0x0F, q >> 4], dim=2).flatten(1, 2)  # [N, 8, 32]
    factors = (scale * scales.float())[..., None]
    offsets = (minimum * minima.float())[..., None]
    return (factors * groups.float() - offsets).flatten(1)


def _decode_q6_k(b: Tensor) -> Tensor:
    """Sixteen groups of 16 numbers of 6 bits, -32 to 31, each group with a scale of 8 bits, times one float16.

    Each half of a block is 128 numbers: 64 bytes of their low 4 bits, and 32 bytes that hold their top 2 bits.
    """
    low = b[:, :128].unflatten(1, (2, 64))
    high = b[:, 128:192].unflatten(1, (2, 32))
    scales = b[:, 192:208].contiguous().view(torch.int8).float()
    scale = _float16(b[:, 208:])
    nibbles = torch.cat([low & 0x0F, low >> 4], dim=2).unflatten(2, (4, 32))  # [N, 2, 4, 32]
    shifts = torch.tensor([0, 2, 4, 6], dtype=torch.uint8, device=b.device)[:, None]
    numbers = (nibbles | (((high[:, :, None] >> shifts) & 3) << 4)).float() - 32
    return ((scale * scales)[..., None] * numbers.flatten(1).unflatten(1, (16, 16))).flatten(1)


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


def _blocks(
    name: str,
    block: int,
    block_bytes: int,
    decode: Callable[[Tensor], Tensor],
    encode: Callable[[Tensor], Tensor] | None = None,
) -> Codec:
    """A codec for rows of blocks, made of functions for blocks."""

    def decode_rows(stored: Stored) -> Tensor:
        data = stored["data"]
        return decode(data.reshape(-1, block_bytes)).reshape(*data.shape[:-1], -1)

    def encode_rows(x: Tensor) -> Stored:
        assert encode is not None
        return {"data": encode(x.reshape(-1, block)).reshape(*x.shape[:-1], -1)}

    return Codec(name, decode_rows, encode_rows if encode else None, block, block_bytes)


# --- Numbers with a scale ---------------------------------------------------------------------------------------------


def _decode_scaled(stored: Stored) -> Tensor:
    numbers = stored["data"].float()
    scale = stored.get("scale")
    return numbers if scale is None else numbers * scale.float()


def _encode_int8(x: Tensor) -> Stored:
    """A scale for each row: x [rows, columns] to data of that shape and scale [rows, 1]."""
    largest = x.abs().amax(dim=1, keepdim=True).clamp_min(1e-30)
    scale = largest / x.new_tensor(127.0)  # divided by a tensor: a GPU then rounds as a CPU does
    return {"data": (x / scale).round().clamp(-127, 127).to(torch.int8), "scale": scale}


def _encode_fp8(x: Tensor) -> Stored:
    """One scale for all: x [rows, columns] to data of that shape and scale []."""
    scale = (x.abs().amax() / torch.finfo(torch.float8_e4m3fn).max).clamp_min(1e-30)
    return {"data": (x / scale).to(torch.float8_e4m3fn), "scale": scale}


CODECS: dict[str, Codec] = {
    codec.name: codec
    for codec in (
        _blocks("Q4_0", 32, 18, _decode_q4_0, _encode_q4_0),
        _blocks("Q5_0", 32, 22, _decode_q5_0),
        _blocks("Q8_0", 32, 34, _decode_q8_0, _encode_q8_0),
        _blocks("Q4_K", 256, 144, _decode_q4_k),
        _blocks("Q6_K", 256, 210, _decode_q6_k),
        Codec("int8", _decode_scaled, _encode_int8),
        Codec("fp8", _decode_scaled, _encode_fp8),
    )
}
