"""The layers models are built of: torch.nn's, with a faster way to multiply on a CPU.

PyTorch brings two libraries for matrices to a CPU: in float32 it takes MKL, in bfloat16 oneDNN. oneDNN was the faster
one in float32 too where this was tried, on an AMD processor, and applies a GELU while the result is at hand. Both
differ by rounding only; `benchmarks/performance.py` measures a whole step.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import Conv3d, GroupNorm, LayerNorm
from torch.nn import functional as F

__all__ = ["Conv2d", "Conv3d", "GroupNorm", "LayerNorm", "Linear", "conv_doubled", "linear_gelu"]


class Linear(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        if input.dtype == torch.float32 and _fits_onednn(input, self.weight):
            return torch.ops.mkldnn._linear_pointwise(input, self.weight, self.bias, "none", [], "")
        return super().forward(input)

    def gelu(self, input: Tensor) -> Tensor:
        """The tanh approximation of GELU of the layer's result."""
        if _fits_onednn(input, self.weight):
            return torch.ops.mkldnn._linear_pointwise(input, self.weight, self.bias, "gelu", [], "tanh")
        return F.gelu(self(input), approximate="tanh")


class Conv2d(nn.Conv2d):
    pass


def conv_doubled(layer: nn.Module, x: Tensor) -> Tensor:
    """A 3 x 3 convolution, padding 1, of a picture doubled by nearest neighbours; [N, C, H, W] -> [N, C', 2H, 2W].

    In float32 by four 2 x 2 convolutions of the picture itself, 2.25 times less work: what meets the same pixel shares
    a weight. In 16 bits the sums of weights would be rounded.
    """
    if not isinstance(layer, Conv2d) or x.dtype != torch.float32:
        return layer(F.interpolate(x, scale_factor=2.0, mode="nearest"))
    count, _, height, width = x.shape
    size = (count, layer.out_channels, 2 * height, 2 * width)
    out = x.new_empty(size).to(memory_format=torch.channels_last)
    by_row = _shared(layer.weight, dim=2)
    for row in (0, 1):
        for column, weight in enumerate(_shared(by_row[row], dim=3)):
            part = F.conv2d(x, weight, layer.bias, padding=1)[:, :, row : row + height, column : column + width]
            out[:, :, row::2, column::2] = part
    return out


def _shared(weight: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Two taps for even places and two for odd ones, of three."""
    first, middle, last = weight.split(1, dim)
    return torch.cat([first, middle + last], dim), torch.cat([first + middle, last], dim)


def linear_gelu(layer: nn.Module, x: Tensor) -> Tensor:
    """The tanh approximation of GELU of a linear layer's result."""
    if isinstance(layer, Linear) and not layer._forward_hooks:
        return layer.gelu(x)
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
