"""A weight that stays quantized in memory: a tensor with the shape and dtype of its numbers, decoded where it is used.

So one model class serves every number format: a layer multiplies by the weight it was given, and an operation that
needs the numbers gets them decoded for that moment. Moving, casting and slicing rows keep the weight quantized.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from .codecs import CODECS, Codec, Stored

_aten = torch.ops.aten
_QUANTIZABLE = re.compile(
    r".*\.(attn1\.(to_[qkv]|to_out\.0)|ff\.net\.0\.proj|ff\.net\.2|SelfAttention\.[qkvo]|DenseReluDense\.(wi_[01]|wo))"
    r"\.weight"
)


class PackedWeight(Tensor):
    """A matrix [rows, columns] (or what a codec without blocks holds), stored by a codec.

    Args:
        codec: a name of CODECS.
        stored: the parts that the codec decodes.
        dtype: what the numbers are decoded to.
    Attributes:
        shape, dtype, device: those of the numbers. The result of an operation on it is an ordinary tensor.
    """

    codec: str
    stored: Stored

    @staticmethod
    def __new__(cls, codec: str, stored: Stored, dtype: torch.dtype) -> PackedWeight:
        data = stored["data"]
        shape = CODECS[codec].shape(tuple(data.shape))
        return torch.Tensor._make_wrapper_subclass(cls, shape, dtype=dtype, device=data.device)  # type: ignore[attr-defined]

    def __init__(self, codec: str, stored: Stored, dtype: torch.dtype) -> None:
        self.codec = codec
        self.stored = stored

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"PackedWeight({self.codec}, {list(self.shape)}, {self.dtype}, {self.device})"

    @property
    def nbytes(self) -> int:
        """Bytes of what is stored."""
        return sum(part.nbytes for part in self.stored.values())

    def dequantize(self, dtype: torch.dtype | None = None) -> Tensor:
        """The numbers as an ordinary tensor, [rows, columns] as itself, in its own dtype or another."""
        return CODECS[self.codec].decode(self.stored).to(dtype or self.dtype)

    def _with(self, stored: Stored, dtype: torch.dtype | None = None) -> PackedWeight:
        # A tensor made in inference mode cannot be what `detach` or `alias` returns for one made outside of it.
        with torch.inference_mode(False):
            return PackedWeight(self.codec, stored, dtype or self.dtype)

    def __tensor_flatten__(self) -> tuple[list[str], Any]:
        for name, part in self.stored.items():
            setattr(self, f"_{name}", part)
        return [f"_{name}" for name in self.stored], (self.codec, self.dtype)

    @staticmethod
    def __tensor_unflatten__(parts: dict[str, Tensor], context: Any, size: Any, stride: Any) -> PackedWeight:
        codec, dtype = context
        return PackedWeight(codec, {name[1:]: part for name, part in parts.items()}, dtype)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _writes_to(func, args, cls):
            raise NotImplementedError(f"{func} would change a {args[0]!r}, which is only read; dequantize it first")
        keep = _KEEPING.get(func)
        if keep is not None and isinstance(args[0], cls):
            kept = keep(*args, **kwargs)
            if kept is not None:
                return kept
        args, kwargs = tree_map_only(cls, lambda tensor: tensor.dequantize(), (args, kwargs))
        return func(*args, **kwargs)


def quantize(tensor: Tensor, codec: str, dtype: torch.dtype | None = None) -> PackedWeight:
    """A matrix [rows, columns], quantized; the result has the same shape, and `dtype` or that of the matrix.

    Raises: ValueError if the codec is only read, or the columns are not a whole number of its blocks.
    """
    found = CODECS[codec]
    if found.encode is None:
        raise ValueError(f"{codec} is read and not written; take one of {', '.join(writable_codecs())}")
    if found.block and tensor.shape[-1] % found.block:
        raise ValueError(f"a matrix of {tensor.shape[-1]} columns; {codec} takes multiples of {found.block}")
    return PackedWeight(codec, found.encode(tensor.float()), dtype or tensor.dtype)


def is_quantizable(key: str) -> bool:
    """Whether the key is that of a matrix of attention or feed-forward. Other weights take little memory, and rounding
    them costs much."""
    return _QUANTIZABLE.fullmatch(key) is not None


def writable_codecs() -> list[str]:
    """The names of the codecs that `quantize` takes."""
    return [name for name, codec in CODECS.items() if codec.encode is not None]


def concatenated_rows(parts: Sequence[Tensor]) -> Tensor:
    """The rows of all parts, each [rows, columns], as one matrix; quantized if all parts are, by one codec."""
    first = parts[0]
    if not isinstance(first, PackedWeight):
        return torch.cat(list(parts))
    alike = [part.stored for part in parts if isinstance(part, PackedWeight) and part.codec == first.codec]
    has_one_scale = "scale" in first.stored and first.stored["scale"].ndim == 0  # which would not be the others'
    if len(alike) < len(parts) or has_one_scale:
        return torch.cat([part.dequantize() if isinstance(part, PackedWeight) else part for part in parts])
    stored: Stored = {}
    for name in first.stored:
        stored[name] = torch.cat([parts_stored[name] for parts_stored in alike])
    return first._with(stored)


# --- Operations whose result stays quantized ----------------------------------------------------------------------
# Each returns None where it needs the numbers after all.


def _same(tensor: PackedWeight, **options: Any) -> PackedWeight:
    return tensor._with(tensor.stored)


def _cloned(tensor: PackedWeight, **options: Any) -> PackedWeight:
    return tensor._with({name: part.clone() for name, part in tensor.stored.items()})


def _moved(
    tensor: PackedWeight,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
    non_blocking: bool = False,
    **layout: Any,
) -> PackedWeight | None:
    if dtype is not None and not dtype.is_floating_point:
        return None
    stored = {name: part.to(device, non_blocking=non_blocking) for name, part in tensor.stored.items()}
    return tensor._with(stored, dtype)


def _to_dtype(tensor: PackedWeight, dtype: torch.dtype, *options: Any, **more: Any) -> PackedWeight | None:
    return _moved(tensor, dtype=dtype)


def _to_device(
    tensor: PackedWeight, device: torch.device, dtype: torch.dtype, *options: Any, **more: Any
) -> PackedWeight | None:
    return _moved(tensor, dtype=dtype, device=device)


def _rows(
    tensor: PackedWeight, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> PackedWeight | None:
    if dim != 0 or tensor.ndim != 2:
        return None
    count = len(tensor)
    sliced = {
        # A scale for each row is sliced with the rows; one for all rows stays.
        name: _aten.slice.Tensor(part, 0, start, end, step) if part.ndim and len(part) == count else part
        for name, part in tensor.stored.items()
    }
    return tensor._with(sliced)


def _embedded(weight: PackedWeight, indices: Tensor, *options: Any) -> Tensor | None:
    """Rows of a table [rows, columns] by indices [...], [..., columns]: only these rows are decoded."""
    scale = weight.stored.get("scale")
    if weight.ndim != 2 or (scale is not None and scale.ndim):
        return None
    data = weight.stored["data"]
    rows = data.view(torch.uint8)[indices.flatten()].view(data.dtype)  # as bytes: a CPU indexes no fp8 before torch 2.7
    return weight._with({**weight.stored, "data": rows}).dequantize().unflatten(0, indices.shape)


def _writes_to(func: Any, args: Any, kind: type) -> bool:
    """Whether an operation writes to one of its arguments that is a `kind`."""
    return any(
        isinstance(value, kind) and argument.alias_info is not None and argument.alias_info.is_write
        for argument, value in zip(func._schema.arguments, args, strict=False)
    )


_KEEPING = {
    _aten.detach.default: _same,
    _aten.alias.default: _same,
    _aten.clone.default: _cloned,
    _aten._to_copy.default: _moved,
    # In inference mode `to` arrives as itself.
    _aten.to.dtype_layout: _moved,
    _aten.to.dtype: _to_dtype,
    _aten.to.device: _to_device,
    _aten.slice.Tensor: _rows,
    _aten.embedding.default: _embedded,
}


def codec_of(tensor: Tensor) -> Codec | None:
    """The codec of a quantized tensor [...]; None for any other."""
    return CODECS[tensor.codec] if isinstance(tensor, PackedWeight) else None
