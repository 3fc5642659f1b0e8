"""Convolutions that look back in time only, and what they carry from one chunk of frames to the next."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

Carry = dict[nn.Module, Tensor]
"""The last input frames of every causal convolution; one dict per clip (and per tile), empty at its start."""


class CausalConv3d(nn.Module):
    """3 x 3 x 3 convolution whose time padding is the past: the carried frames, or the first frame twice."""

    def __init__(self, in_channels: int, out_channels: int, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.conv = operations.Conv3d(in_channels, out_channels, 3, padding=(0, 1, 1), **factory)

    def forward(self, x: Tensor, carry: Carry) -> Tensor:
        """x: [B, C, T, H, W] -> [B, out_channels, T, H, W]; `carry` is read and renewed."""
        past = carry.get(self)
        if past is None:
            past = x[:, :, :1].expand(-1, -1, 2, -1, -1)
        x = torch.cat([past, x], dim=2)
        carry[self] = x[:, :, -2:].clone()  # a view would keep the whole chunk alive
        return self.conv(x)


class PointwiseConv3d(nn.Module):
    """1 x 1 x 1 convolution under the published name `<name>.conv`."""

    def __init__(self, in_channels: int, out_channels: int, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.conv = operations.Conv3d(in_channels, out_channels, 1, **factory)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)
