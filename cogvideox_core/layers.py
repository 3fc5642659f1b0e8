"""The layers models are built of: torch.nn's, with a faster way to multiply on a CPU.

PyTorch brings two libraries for matrices to a CPU: in float32 it takes MKL, in bfloat16 oneDNN. oneDNN was the faster
one in float32 too where this was tried, on an AMD processor, and applies a GELU while the result is at hand. Both
differ by rounding only; `benchmarks/performance.py` measures a whole step.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import Conv2d, Conv3d, GroupNorm, LayerNorm
from torch.nn import functional as F

__all__ = ["Conv2d", "Conv3d", "GroupNorm", "LayerNorm", "Linear", "linear_gelu"]


class Linear(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        if input.dtype == torch.float32 and _fits_onednn(input, self.weight):
            return torch.ops.mkldnn._linear_pointwise(input, self.weight, self.bias, "none", [], "")
        return super().forward(input)


def linear_gelu(layer: nn.Module, x: Tensor) -> Tensor:
    """The tanh approximation of GELU of a linear layer's result."""
    if isinstance(layer, Linear) and not layer._forward_hooks and _fits_onednn(x, layer.weight):
        return torch.ops.mkldnn._linear_pointwise(x, layer.weight, layer.bias, "gelu", [], "tanh")
    return F.gelu(layer(x), approximate="tanh")


def _fits_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN's own operation takes these: plain numbers on the CPU that nobody asks a gradient of."""
    return (
        x.device.type == weight.device.type == "cpu"
        and x.dtype == weight.dtype
        and x.dtype in (torch.float32, torch.bfloat16)
        and type(weight) is nn.Parameter
        and not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad))
        and _has_onednn()
    )


def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
