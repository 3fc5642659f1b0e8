"""Quantization on request: the large matrices of a model with 16- or 32-bit weights in 8 bits, at half the memory.

Two methods. "int8" keeps a scale for each row, in the format that ComfyUI calls `int8_tensorwise`; "llm.int8" is that
of bitsandbytes, which multiplies the outliers among the activations in 16 bits. Layers that are sensitive to rounding
stay as they are: embeddings, norms, the first and the last layers. The matrices that make the norms' modulation are a
seventh of a model: "int8" quantizes them too, but never rounds the activations that they multiply.
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
from ..kernels.availability import in_short
from ..kernels.int8 import can_multiply_int8, int8_linear
from .packed_weight import PackedWeight, is_quantizable, quantize

Method = Literal["none", "int8", "llm.int8"]

_MODULATION = re.compile(r".*\.norm[12]\.linear\.weight")


class Int8Linear(layers.Linear):
    """A linear layer with a `PackedWeight` in int8; it multiplies in 8 bits where the device does that faster.

    Elsewhere it decodes the weight, and activations are not rounded.
    """

    def _multiplied(self, input: Tensor) -> Tensor:
        return self._product(input) if self._in_8_bits(input) else super()._multiplied(input)

    def gelu(self, input: Tensor) -> Tensor:
        """The tanh approximation of GELU of the product: input [..., in] to [..., out]."""
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
    """Quantize the large matrices of a transformer or text encoder, in place and one at a time.

    Matrices that are quantized already stay as they are.

    Args:
        dtype: what the quantized matrices are decoded to; None for the dtype each had.
        device: where they go; None for where they are.
    Raises: ValueError for an unknown method; ImportError if "llm.int8" is asked for and bitsandbytes is missing.
    """
    check_method(method)
    convert = METHODS[method]
    if convert is None:
        return
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.Linear):
            target = torch.device(device or layer.weight.device)
            quantized = convert(f"{name}.weight", layer, dtype or layer.weight.dtype, target)
            owner, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(owner), leaf, quantized)


def check_method(method: str) -> None:
    """Raises: ValueError if there is no such method; ImportError if it needs a package that is missing."""
    if method not in METHODS:
        raise ValueError(f"quantize={method!r}; there are {', '.join(METHODS)}")
    if method == "llm.int8":
        _bitsandbytes_classes()


def check_method_on(method: str, device: torch.device) -> None:
    """Try a method's product on a device, with something small, if it is a package's.

    Raises: ValueError if it does not run there.
    """
    if method != "llm.int8":
        return
    try:
        layer = _to_llm_int8("transformer_blocks.0.attn1.to_q.weight", layers.Linear(64, 64), torch.float16, device)
        layer.to(device)(torch.ones(32, 64, device=device, dtype=torch.float16))
    except torch.OutOfMemoryError:
        raise  # says nothing about the package
    except Exception as error:  # one without a library for this device raises anything
        raise ValueError(
            f"quantize={method!r} does not run on {device} ({in_short(error)}); take int8, or none"
        ) from error


def will_quantize(key: str, tensor: Tensor, method: Method) -> bool:
    """Whether `quantize_model` quantizes the weight [rows, columns] of that key."""
    chosen = is_quantizable(key) or (method == "int8" and _MODULATION.fullmatch(key) is not None)
    return METHODS[method] is not None and chosen and _is_plain(tensor)


def quantize_tensors(
    tensors: Mapping[str, Tensor], dtype: torch.dtype, device: torch.device | str = "cpu"
) -> dict[str, Tensor]:
    """A model's tensors by key, with those in "int8" that `quantize_model` would quantize; the others as they are.

    Args:
        tensors: [...] each; shapes do not change.
        dtype: what the quantized ones are decoded to.
        device: where the rounding is done, one tensor at a time; each returns to the device it was on.
    """
    return {
        key: quantize(tensor.to(device), "int8", dtype).to(tensor.device)
        if will_quantize(key, tensor, "int8")
        else tensor
        for key, tensor in tensors.items()
    }


def check_quantizable(tensors: Mapping[str, Tensor], method: Method, source: str | Path) -> None:
    """Raises: ValueError if a method is asked for and all large matrices are quantized in another way already.

    Args: tensors: [...] each, by key.
    """
    large = [tensor for key, tensor in tensors.items() if is_quantizable(key)]
    codecs = {tensor.codec for tensor in large if isinstance(tensor, PackedWeight)}
    if METHODS[method] is None or any(map(_is_plain, large)) or (method == "int8" and codecs == {"int8"}):
        return
    raise ValueError(
        f"{method} for {source}, whose matrices are in {', '.join(sorted(codecs))} already; take it as it is, or give "
        "the weights in 16 bits"
    )


def _is_plain(weight: Tensor) -> bool:
    return weight.is_floating_point() and not isinstance(weight, PackedWeight)


def _to_int8(key: str, layer: nn.Linear, dtype: torch.dtype, device: torch.device) -> nn.Linear:
    weight = layer.weight.detach()
    if will_quantize(key, weight, "int8"):
        weight = quantize(weight.to(device), "int8", dtype)
        layer.weight = nn.Parameter(weight, requires_grad=False)
    if not (is_quantizable(key) and isinstance(layer, layers.Linear) and _has_codec(weight, "int8")):
        return layer
    quantized = Int8Linear(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
    quantized.weight, quantized.bias = layer.weight, layer.bias
    return quantized.eval()


def _has_codec(weight: Tensor, codec: str) -> bool:
    return isinstance(weight, PackedWeight) and weight.codec == codec


def _to_llm_int8(key: str, layer: nn.Linear, dtype: torch.dtype, device: torch.device) -> nn.Linear:
    if not will_quantize(key, layer.weight, "llm.int8"):
        return layer
    linear, parameter = _bitsandbytes_classes()
    quantized = linear(
        layer.in_features,
        layer.out_features,
        bias=layer.bias is not None,
        has_fp16_weights=False,
        threshold=6.0,
        device="meta",
    )
    # bitsandbytes quantizes a weight when it moves to the device.
    quantized.weight = parameter(layer.weight.detach().cpu(), requires_grad=False).to(device)
    quantized.bias = layer.bias
    return quantized.requires_grad_(False).eval()


class _WithoutCastNotice(logging.Filter):
    """Drops one message of bitsandbytes: that it casts inputs to float16, at every product in bfloat16 or float32.

    Models run in those dtypes on purpose, so a run would log it thousands of times. Python shares a logger with the
    whole process, hence a filter for this one sentence: everything else that bitsandbytes logs stays.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        return "MatMul8bitLt: inputs will be cast" not in record.getMessage()


_WITHOUT_CAST_NOTICE = _WithoutCastNotice()  # one object: a logger takes each filter once


def _bitsandbytes_classes() -> tuple[type, type]:
    """bitsandbytes' layer and its weight."""
    try:
        from bitsandbytes.nn.modules import Int8Params, Linear8bitLt
    except ImportError as error:
        raise ImportError(
            "llm.int8 needs the package bitsandbytes; install it (pip install bitsandbytes), or take int8"
        ) from error
    except Exception as error:  # one without a library for this system raises anything
        raise ImportError(
            f"llm.int8 needs the package bitsandbytes, which does not work here ({in_short(error)}); install it "
            "again, or take int8"
        ) from error
    logging.getLogger("bitsandbytes.autograd._functions").addFilter(_WITHOUT_CAST_NOTICE)
    return Linear8bitLt, Int8Params


METHODS: dict[str, Callable[[str, nn.Linear, torch.dtype, torch.device], nn.Linear] | None] = {
    "none": None,
    "int8": _to_int8,
    "llm.int8": _to_llm_int8,
}
