"""The layers models are built of: torch.nn's, with a faster way to multiply on a CPU.

PyTorch brings two libraries for matrices to a CPU: in float32 it takes MKL, in bfloat16 oneDNN. oneDNN was the faster
one in float32 too where this was tried, on an AMD processor, and applies a GELU while the result is at hand, as cuBLAS
does on a GPU. All differ by rounding only; `benchmarks/performance.py` measures a whole step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import GroupNorm
from torch.nn import functional as F

__all__ = ["Conv2d", "Conv3d", "GroupNorm", "LayerNorm", "Linear", "linear_gelu", "plain_weights"]


class Linear(nn.Linear):
    """A linear layer, with `additions` to its result: what LoRAs leave here.

    An addition is called as a forward hook is. It is no hook since torch.compile, which takes one compiled block for
    all that look alike, does not look at hooks.
    """

    additions: tuple[Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor], ...] = ()

    def forward(self, input: Tensor) -> Tensor:
        output = self._multiplied(input)
        for add in self.additions:
            output = add(self, (input,), output)
        return output

    def _multiplied(self, input: Tensor) -> Tensor:
        if input.dtype == torch.float32 and _fits_onednn(input, self.weight):
            return torch.ops.mkldnn._linear_pointwise(input, self.weight, self.bias, "none", [], "")
        return super().forward(input)

    def gelu(self, input: Tensor) -> Tensor:
        """The tanh approximation of GELU of the product, without additions."""
        if _fits_onednn(input, self.weight):
            return torch.ops.mkldnn._linear_pointwise(input, self.weight, self.bias, "gelu", [], "tanh")
        if input.is_cuda and self.bias is not None and plain_weights(self, input):
            rows = input.flatten(0, -2), self.weight.t()
            return torch.ops.aten._addmm_activation(self.bias, *rows, use_gelu=True).unflatten(0, input.shape[:-1])
        return F.gelu(self._multiplied(input), approximate="tanh")


class _Lending:
    def weights_for(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """Weight and bias, where they can be used for x without calling the layer."""
        return plain_weights(self, x)


class LayerNorm(_Lending, nn.LayerNorm):
    pass


class Conv2d(_Lending, nn.Conv2d):
    pass


class Conv3d(_Lending, nn.Conv3d):
    pass


def linear_gelu(layer: nn.Module, x: Tensor) -> Tensor:
    """The tanh approximation of GELU of a linear layer's result."""
    if isinstance(layer, Linear) and not (layer.additions or layer._forward_hooks):
        return layer.gelu(x)
    return F.gelu(layer(x), approximate="tanh")


def plain_weights(layer: Any, x: Tensor) -> tuple[Tensor, Tensor] | None:
    """Weight and bias of a layer, where they are ordinary ones, stand where x is, and nobody would miss the call."""
    weight, bias = layer.weight, layer.bias
    fits = type(weight) is nn.Parameter and weight.device == x.device and weight.dtype == x.dtype
    return (weight, bias) if fits and not layer._forward_hooks and not wants_gradients(x, weight) else None


def onednn_convolves(x: Tensor) -> bool:
    """Whether oneDNN's own operation for convolutions can be asked for x; in 16 bits PyTorch asks it by itself."""
    on_cpu = x.device.type == "cpu" and x.dtype == torch.float32
    return on_cpu and torch.backends.mkldnn.is_available() and not torch.compiler.is_compiling()


def wants_gradients(*tensors: Tensor) -> bool:
    """Whether what is computed from them takes part in a backward pass."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _fits_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN's own operation takes these: plain numbers on the CPU that nobody asks a gradient of.

    While torch.compile traces it does not: its CPU backend takes that operation with constant weights only.
    """
    return (
        not torch.compiler.is_compiling()
        and x.device.type == weight.device.type == "cpu"
        and x.dtype == weight.dtype
        and x.dtype in (torch.float32, torch.bfloat16)
        and type(weight) is nn.Parameter
        and not wants_gradients(x, weight)
        and HAS_ONEDNN
    )


HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
"""Whether PyTorch brings oneDNN's products of matrices by name."""
