"""INT8 on request: the large matrices of a model that comes in 16 or 32 bits, in half the memory of 16.

Two methods. "int8" keeps a scale for each row and is what ComfyUI calls `int8_tensorwise`; "llm.int8" is bitsandbytes',
which multiplies the outliers among the activations in 16 bits. Sensitive layers stay as they are: embeddings, norms,
the first and the last layers. The matrices that make the norms' modulation are a seventh of a model: in "int8" they
become small too, but nothing else is rounded there.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from ..kernels import layers
from ..kernels.int8 import can_multiply_int8, int8_linear
from .packed_weight import PackedWeight, is_large, quantize

Method = Literal["none", "int8", "llm.int8"]

_MODULATION = re.compile(r".*\.norm[12]\.linear\.weight")


class Int8Linear(layers.Linear):
    """A linear layer whose weight is a `PackedWeight` in int8; it multiplies in 8 bits where the device does.

    Elsewhere the weight is decoded, and only that is rounded.
    """

    def _multiplied(self, input: Tensor) -> Tensor:
        return self._product(input) if self._in_8_bits(input) else super()._multiplied(input)

    def gelu(self, input: Tensor) -> Tensor:
        return self._product(input, gelu=True) if self._in_8_bits(input) else super().gelu(input)

    def _in_8_bits(self, input: Tensor) -> bool:
        weight = self.weight
        return isinstance(weight, PackedWeight) and can_multiply_int8(input, weight.stored["data"])

    def _product(self, input: Tensor, *, gelu: bool = False) -> Tensor:
        weight = self.weight
        assert isinstance(weight, PackedWeight)
        scale = weight.stored["scale"].expand(len(weight), 1)  # a file may have one for the whole matrix
        return int8_linear(input, weight.stored["data"], scale, self.bias, gelu=gelu)


def quantize_model(
    model: nn.Module,
    method: Method,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> None:
    """Make the large matrices of a transformer or text encoder small, in place and one at a time.

    Args:
        dtype: what the matrices stand for; None for their own.
        device: where they go; None for where they are.
    Matrices that are in few bits already keep them.
    Raises: ValueError for an unknown method; ImportError if "llm.int8" is asked for and bitsandbytes is missing.
    """
    check_method(method)
    convert = METHODS[method]
    if convert is None:
        return
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.Linear):
            small = convert(
                f"{name}.weight", layer, dtype or layer.weight.dtype, torch.device(device or layer.weight.device)
            )
            owner, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(owner), leaf, small)


def check_method(method: str) -> None:
    """Raises: ValueError if there is no such method; ImportError if it needs a package that is missing."""
    if method not in METHODS:
        raise ValueError(f"quantize={method!r}; there are {', '.join(METHODS)}")
    if method == "llm.int8":
        _linear8bit()


def becomes_small(key: str, tensor: Tensor, method: Method) -> bool:
    """Whether `quantize_model` makes the weight of that name small."""
    known = is_large(key) or (method == "int8" and _MODULATION.fullmatch(key) is not None)
    return METHODS[method] is not None and known and _is_plain(tensor)


def made_small(
    tensors: Mapping[str, Tensor], dtype: torch.dtype, device: torch.device | str = "cpu"
) -> dict[str, Tensor]:
    """The weights of a model with those in "int8" that `quantize_model` would make so; the others as they are.

    Args:
        dtype: what the small ones stand for.
        device: what they are rounded on, one at a time; they come back to where they were.
    """
    return {
        key: quantize(tensor.to(device), "int8", dtype).to(tensor.device)
        if becomes_small(key, tensor, "int8")
        else tensor
        for key, tensor in tensors.items()
    }


def check_plain(tensors: Mapping[str, Tensor], method: Method, source: str | Path) -> None:
    """Raises: ValueError if a method is asked for and all large matrices are in few bits of another kind already."""
    large = [tensor for key, tensor in tensors.items() if is_large(key)]
    codecs = {tensor.codec for tensor in large if isinstance(tensor, PackedWeight)}
    if METHODS[method] is None or any(map(_is_plain, large)) or (method == "int8" and codecs == {"int8"}):
        return
    raise ValueError(
        f"{method} for {source}, whose matrices are in {', '.join(sorted(codecs))} already; take it as it is, or give "
        "the weights in 16 bits"
    )


def _is_plain(weight: Tensor) -> bool:
    return weight.is_floating_point() and not isinstance(weight, PackedWeight)


def _by_rows(key: str, layer: nn.Linear, dtype: torch.dtype, device: torch.device) -> nn.Linear:
    weight = layer.weight.detach()
    if becomes_small(key, weight, "int8"):
        weight = quantize(weight.to(device), "int8", dtype)
        layer.weight = nn.Parameter(weight, requires_grad=False)
    if not (is_large(key) and isinstance(layer, layers.Linear) and _has_codec(weight, "int8")):
        return layer
    small = Int8Linear(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
    small.weight, small.bias = layer.weight, layer.bias
    return small.eval()


def _has_codec(weight: Tensor, codec: str) -> bool:
    return isinstance(weight, PackedWeight) and weight.codec == codec


def _by_bitsandbytes(key: str, layer: nn.Linear, dtype: torch.dtype, device: torch.device) -> nn.Linear:
    if not becomes_small(key, layer.weight, "llm.int8"):
        return layer
    linear, parameter = _linear8bit()
    small = linear(
        layer.in_features,
        layer.out_features,
        bias=layer.bias is not None,
        has_fp16_weights=False,
        threshold=6.0,
        device="meta",
    )
    small.weight = parameter(layer.weight.detach().cpu(), requires_grad=False).to(device)
    small.bias = layer.bias
    return small.requires_grad_(False).eval()


def _linear8bit() -> tuple[type, type]:
    """bitsandbytes' layer and its weight, without the line it logs at every product that is not in float16."""
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    try:
        from bitsandbytes.nn.modules import Int8Params, Linear8bitLt
    except ImportError as error:
        raise ImportError(
            "llm.int8 needs the package bitsandbytes; install it (pip install bitsandbytes), or take int8"
        ) from error
    return Linear8bitLt, Int8Params


METHODS: dict[str, Callable[[str, nn.Linear, torch.dtype, torch.device], nn.Linear] | None] = {
    "none": None,
    "int8": _by_rows,
    "llm.int8": _by_bitsandbytes,
}
