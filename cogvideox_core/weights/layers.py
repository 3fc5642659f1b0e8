"""torch.nn's layers for models whose weights come from a file: without initial values, and fast on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class _NoInitialValues:
    def reset_parameters(self) -> None:
        """Leave the weights as they are; drawing them would only take time, on the meta device too."""


class Linear(_NoInitialValues, nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


class Conv2d(_NoInitialValues, nn.Conv2d):
    pass


class Conv3d(_NoInitialValues, nn.Conv3d):
    pass


class LayerNorm(_NoInitialValues, nn.LayerNorm):
    pass


class GroupNorm(_NoInitialValues, nn.GroupNorm):
    pass


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x W^T + b.

    PyTorch brings two libraries for matrices to a CPU and takes MKL in float32, which is slow on AMD's; oneDNN, which
    it takes in bfloat16, is as fast as they allow (docs/performance.md). Both are exact.
    """
    if _for_onednn(x, weight):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def _for_onednn(x: Tensor, weight: Tensor) -> bool:
    return (
        x.dtype == weight.dtype == torch.float32
        and x.device.type == weight.device.type == "cpu"
        and type(weight) in (Tensor, nn.Parameter)
        and not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad))
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )
