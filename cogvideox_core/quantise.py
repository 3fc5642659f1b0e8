"""INT8: the large matrices of a model that is loaded, in half the memory of 16 bits.

Two methods. "int8" keeps a scale for each row and multiplies in the model's dtype; ComfyUI reads and writes the same
(`int8_tensorwise`). "llm.int8" is bitsandbytes': activations are rounded to 8 bits too, but for outliers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import nn

from .weights.quantised import QuantisedTensor, is_large, quantise

Method = Literal["none", "int8", "llm.int8"]


def quantise_model(model: nn.Module, method: Method = "int8") -> None:
    """Make the large matrices of a transformer or text encoder small, in place and one at a time.

    Norms, embeddings and the layers around the blocks keep their dtype; so do matrices that are small already.

    Raises: ValueError for an unknown method; ImportError if "llm.int8" is asked for and bitsandbytes is missing.
    """
    if method not in METHODS:
        raise ValueError(f"quantize={method!r}; there are {', '.join(METHODS)}")
    convert = METHODS[method]
    if convert is None:
        return
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.Linear) and is_large(f"{name}.weight") and _is_plain(layer.weight):
            owner, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(owner), leaf, convert(layer))


def _is_plain(weight: torch.Tensor) -> bool:
    return weight.is_floating_point() and not isinstance(weight, QuantisedTensor)


def _by_rows(layer: nn.Linear) -> nn.Linear:
    layer.weight = nn.Parameter(quantise(layer.weight.detach(), "int8"), requires_grad=False)
    return layer


def _by_bitsandbytes(layer: nn.Linear) -> nn.Linear:
    try:
        from bitsandbytes.nn.modules import Int8Params, Linear8bitLt
    except ImportError as error:
        raise ImportError("llm.int8 needs bitsandbytes; install it (pip install bitsandbytes), or take int8") from error
    weight = layer.weight.detach()
    small = Linear8bitLt(
        layer.in_features,
        layer.out_features,
        bias=layer.bias is not None,
        has_fp16_weights=False,
        threshold=6.0,
        device="meta",
    )
    small.weight = Int8Params(weight.contiguous(), requires_grad=False)
    small.bias = layer.bias
    return small.to(weight.device).requires_grad_(False).eval()


METHODS: dict[str, Callable[[nn.Linear], nn.Linear] | None] = {
    "none": None,
    "int8": _by_rows,
    "llm.int8": _by_bitsandbytes,
}
