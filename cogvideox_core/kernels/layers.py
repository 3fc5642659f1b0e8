"""The layers models are built of: torch.nn's, with a faster way to multiply on a CPU and weights that kernels may read.

PyTorch has two libraries for products of matrices on a CPU: in float32 it uses MKL, in bfloat16 oneDNN. Which is the
faster one in float32 is measured. oneDNN applies a GELU while the result is in cache, as cuBLAS does on a GPU. All
differ by rounding only; `benchmarks/performance.py` measures a whole step.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import GroupNorm
from torch.nn import functional as F

from .choices import Ways, fastest
from .gradients import needs_gradients
from .torch_symbols import addmm_gelu, onednn_linear

__all__ = ["Conv2d", "Conv3d", "GroupNorm", "LayerNorm", "Linear", "kernel_weights", "linear_gelu"]

_SMALL_EXAMPLE, _LARGE_EXAMPLE = 256, 1024  # rows and columns of the examples that are measured

Delta = Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]
"""Called as a forward hook is, with a layer, its inputs ([..., K],) and its output [..., N]; returns the new output."""


class Linear(nn.Linear):
    """A linear layer, with `deltas` to its result: those of LoRAs.

    They are no forward hooks because torch.compile, which reuses one compiled block for all blocks, does not check
    hooks.
    """

    deltas: tuple[Delta, ...] = ()

    def forward(self, input: Tensor) -> Tensor:
        """[..., in_features] -> [..., out_features]."""
        output = self._multiplied(input)
        for delta in self.deltas:
            output = delta(self, (input,), output)
        return output

    def _multiplied(self, input: Tensor) -> Tensor:
        if input.dtype == torch.float32 and _fits_onednn(input, self.weight) and _is_faster_in_onednn(input, self):
            return onednn_linear(input, self.weight, self.bias)
        return super().forward(input)

    def gelu(self, input: Tensor) -> Tensor:
        """The tanh approximation of GELU of the product, without deltas; [..., in_features] -> [..., out_features]."""
        if _fits_onednn(input, self.weight) and _is_faster_in_onednn(input, self):
            return onednn_linear(input, self.weight, self.bias, gelu=True)
        if input.is_cuda and self.bias is not None and kernel_weights(self, input):
            return addmm_gelu(input.flatten(0, -2), self.weight, self.bias).unflatten(0, input.shape[:-1])
        return F.gelu(self._multiplied(input), approximate="tanh")


class _KernelWeights:
    """A layer whose weights a kernel may read in place of a call."""

    def kernel_weights(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """The function `kernel_weights` of this layer, for an x of any shape."""
        return kernel_weights(self, x)


class LayerNorm(_KernelWeights, nn.LayerNorm):
    pass


class Conv2d(_KernelWeights, nn.Conv2d):
    pass


class Conv3d(_KernelWeights, nn.Conv3d):
    pass


def linear_gelu(layer: nn.Module, x: Tensor) -> Tensor:
    """The tanh approximation of GELU of a linear layer's result: [..., K] -> [..., N]."""
    if isinstance(layer, Linear) and not (layer.deltas or layer._forward_hooks):
        return layer.gelu(x)
    return F.gelu(layer(x), approximate="tanh")


def kernel_weights(layer: Any, x: Tensor) -> tuple[Tensor, Tensor] | None:
    """Weight and bias of a layer, for a kernel that computes with x [...] in place of a call of the layer.

    None if the layer must be called itself: its weights are packed, have another device or dtype than x or need
    gradients, or it has hooks. The shapes are those of the layer.
    """
    weight, bias = layer.weight, layer.bias
    fits = type(weight) is nn.Parameter and weight.device == x.device and weight.dtype == x.dtype
    return (weight, bias) if fits and not layer._forward_hooks and not needs_gradients(x, weight) else None


def fits_onednn_conv(x: Tensor) -> bool:
    """Whether `onednn_conv3d` takes x [B, C, T, H, W]: float32 on a CPU. In 16 bits PyTorch asks oneDNN by itself."""
    on_cpu = x.device.type == "cpu" and x.dtype == torch.float32
    return on_cpu and torch.backends.mkldnn.is_available() and not torch.compiler.is_compiling()


def _is_faster_in_onednn(x: Tensor, layer: nn.Linear) -> bool:
    """Whether oneDNN multiplies x [..., K] faster than PyTorch by itself; in bfloat16 that asks oneDNN, too."""
    if x.dtype != torch.float32:
        return True
    products = x.numel() * layer.out_features
    side = _SMALL_EXAMPLE if products < _SMALL_EXAMPLE * _LARGE_EXAMPLE**2 else _LARGE_EXAMPLE
    return fastest(f"products in float32, {side} rows", partial(_ways, side), "onednn") == "onednn"


def _ways(side: int) -> Ways:
    """oneDNN and PyTorch's own choice, on an example with so many rows and columns."""
    x, weight = torch.randn(2, side, side, generator=torch.Generator().manual_seed(0))
    return {"onednn": partial(onednn_linear, x, weight, None), "pytorch": partial(F.linear, x, weight)}


def _fits_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether `onednn_linear` takes these: unpacked weights on the CPU, in inference, not traced by torch.compile."""
    return (
        not torch.compiler.is_compiling()
        and x.device.type == weight.device.type == "cpu"
        and x.dtype == weight.dtype
        and x.dtype in (torch.float32, torch.bfloat16)
        and type(weight) is nn.Parameter
        and not needs_gradients(x, weight)
    )
