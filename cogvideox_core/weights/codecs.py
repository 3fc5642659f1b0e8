"""How small number formats store weights: blocks of GGML, 8-bit integers and 8-bit floats with a scale.

A codec turns stored bytes into numbers and, where this pack writes the format, numbers into stored bytes. Block formats
keep the rows of a matrix apart: [..., columns] is stored as [..., bytes of a row], uint8.

Source: ggml's `ggml-quants.c` for the layout of blocks; ComfyUI's `quant_ops.py` for scales.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Stored = dict[str, Tensor]
"""The parts of a stored tensor: "data", and "scale" where there is one."""


@dataclass(frozen=True)
class Codec:
    """One number format.

    Attributes:
        name: as people call it.
        decode: the stored parts to float32 numbers, [rows, columns] for block formats, else of the shape of "data".
        encode: a float32 matrix to its parts; None where the format is only read.
        block, block_bytes: numbers in a block and bytes that hold them; 0 for formats without blocks.
    """

    name: str
    decode: Callable[[Stored], Tensor]
    encode: Callable[[Tensor], Stored] | None = None
    block: int = 0
    block_bytes: int = 0

    def shape(self, data_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the numbers in "data" of a shape."""
        if not self.block:
            return data_shape
        return *data_shape[:-1], data_shape[-1] // self.block_bytes * self.block

    def stored_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of "data" for numbers of a shape."""
        if not self.block:
            return shape
        return *shape[:-1], shape[-1] // self.block * self.block_bytes

    def fits(self, data_shape: tuple[int, ...]) -> bool:
        """Whether "data" of that shape is a whole number of blocks."""
        return not self.block or (len(data_shape) > 0 and data_shape[-1] % self.block_bytes == 0)


# --- Blocks of GGML -----------------------------------------------------------------------------------------------
# Inside the functions a block is a row: b [N, bytes], uint8.


def _float16(b: Tensor) -> Tensor:
    """[N, 2 n] bytes as [N, n] float32."""
    return b.contiguous().view(torch.float16).float()


def _nibbles(b: Tensor) -> Tensor:
    """[N, n] bytes as [N, 2 n]: all low halves, then all high halves."""
    return torch.cat([b & 0x0F, b >> 4], dim=1)


def _decode_q8_0(b: Tensor) -> Tensor:
    return _float16(b[:, :2]) * b[:, 2:].contiguous().view(torch.int8).float()


def _decode_q4_0(b: Tensor) -> Tensor:
    return _float16(b[:, :2]) * (_nibbles(b[:, 2:]).float() - 8)


def _decode_q5_0(b: Tensor) -> Tensor:
    bits = (b[:, 2:6, None] >> torch.arange(8, dtype=torch.uint8, device=b.device)) & 1  # bit i belongs to number i
    return _float16(b[:, :2]) * ((_nibbles(b[:, 6:]) | (bits.flatten(1) << 4)).float() - 16)


def _decode_q4_k(b: Tensor) -> Tensor:
    """Eight groups of 32 numbers, each with a scale and a minimum of 6 bits."""
    scale, least = _float16(b[:, :2]), _float16(b[:, 2:4])
    low, middle, high = b[:, 4:16].chunk(3, dim=1)  # 4 bytes each
    scales = torch.cat([low & 63, (high & 15) | ((low >> 6) << 4)], dim=1)
    minima = torch.cat([middle & 63, (high >> 4) | ((middle >> 6) << 4)], dim=1)
    q = b[:, 16:].unflatten(1, (4, 32))  # each 32 bytes hold two groups, in their halves
    groups = torch.stack([q & 0x0F, q >> 4], dim=2).flatten(1, 2)  # [N, 8, 32]
    factors, offsets = (scale * scales.float())[..., None], (least * minima.float())[..., None]
    return (factors * groups.float() - offsets).flatten(1)


def _decode_q6_k(b: Tensor) -> Tensor:
    """Sixteen groups of 16 numbers, each with a scale of 8 bits."""
    low, high = b[:, :128].unflatten(1, (2, 64)), b[:, 128:192].unflatten(1, (2, 32))
    scales, scale = b[:, 192:208].contiguous().view(torch.int8).float(), _float16(b[:, 208:])
    nibbles = torch.cat([low & 0x0F, low >> 4], dim=2).unflatten(2, (4, 32))  # [N, 2, 4, 32]
    shifts = torch.tensor([0, 2, 4, 6], dtype=torch.uint8, device=b.device)[:, None]
    numbers = (nibbles | (((high[:, :, None] >> shifts) & 3) << 4)).float() - 32
    return ((scale * scales)[..., None] * numbers.flatten(1).unflatten(1, (16, 16))).flatten(1)


def _encode_q8_0(x: Tensor) -> Tensor:
    scale = x.abs().amax(dim=1, keepdim=True) / 127
    numbers = (x * torch.where(scale > 0, 1 / scale, 0)).round().clamp(-128, 127).to(torch.int8)
    return torch.cat([scale.half().view(torch.uint8), numbers.view(torch.uint8)], dim=1)


def _encode_q4_0(x: Tensor) -> Tensor:
    """The number furthest from zero becomes -8."""
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
    """A codec of functions on single blocks."""

    def decode_rows(stored: Stored) -> Tensor:
        data = stored["data"]
        return decode(data.reshape(-1, block_bytes)).reshape(*data.shape[:-1], -1)

    def encode_rows(x: Tensor) -> Stored:
        assert encode is not None
        return {"data": encode(x.reshape(-1, block)).reshape(*x.shape[:-1], -1)}

    return Codec(name, decode_rows, encode_rows if encode else None, block, block_bytes)


# --- Scaled numbers -----------------------------------------------------------------------------------------------


def _decode_scaled(stored: Stored) -> Tensor:
    numbers = stored["data"].float()
    scale = stored.get("scale")
    return numbers if scale is None else numbers * scale.float()


def _encode_int8(x: Tensor) -> Stored:
    """A scale for each row."""
    largest = x.abs().amax(dim=1, keepdim=True).clamp_min(1e-30)
    scale = largest / x.new_tensor(127.0)  # by a tensor, as which a GPU divides exactly as a CPU does
    return {"data": (x / scale).round().clamp(-127, 127).to(torch.int8), "scale": scale}


def _encode_fp8(x: Tensor) -> Stored:
    """One scale."""
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
