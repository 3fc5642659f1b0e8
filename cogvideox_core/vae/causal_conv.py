"""Convolutions that look back in time only, and what they carry from one chunk of frames to the next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

MAX_ELEMENTS = 2**31 - 1
"""More than this in one tensor, and a convolution needs 64-bit indices, which GPU libraries do not have for all."""

Carry = dict[nn.Module, Tensor]
"""The last input frames of every causal convolution; one dict per clip (and per tile), empty at its start."""


class CausalConv3d(nn.Module):
    """3 x 3 x 3 convolution whose time padding is the past: the carried frames, or the first frame twice."""

    def __init__(self, in_channels: int, out_channels: int, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.conv = operations.Conv3d(in_channels, out_channels, 3, padding=(0, 1, 1), **factory)
        self.widening = out_channels / in_channels

    def forward(self, x: Tensor, carry: Carry) -> Tensor:
        """x: [B, C, T, H, W] -> [B, out_channels, T, H, W]; `carry` is read and renewed."""
        past = carry.get(self)
        if past is None:
            past = x[:, :, :1].expand(-1, -1, 2, -1, -1)
        x = torch.cat([past, x], dim=2)
        carry[self] = x[:, :, -2:].clone()  # a view would keep the whole chunk alive
        frames = _frames_at_a_time(x.shape[2] - 2, x.numel() * max(1.0, self.widening))
        starts = range(0, x.shape[2] - 2, frames)
        parts = [self.conv(x[:, :, start : start + frames + 2]) for start in starts]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


class PointwiseConv3d(nn.Module):
    """1 x 1 x 1 convolution under the published name `<name>.conv`."""

    def __init__(self, in_channels: int, out_channels: int, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.conv = operations.Conv3d(in_channels, out_channels, 1, **factory)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


def per_frame(function: Callable[[Tensor], Tensor], x: Tensor, *, growth: int = 1) -> Tensor:
    """Apply a 2-D function to every frame of [B, C, T, H, W]; `growth` is how many times larger its results are."""
    frames = x.transpose(1, 2).flatten(0, 1)
    parts = [function(part) for part in frames.split(_frames_at_a_time(len(frames), x.numel() * growth))]
    result = parts[0] if len(parts) == 1 else torch.cat(parts)
    return result.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)


def _frames_at_a_time(frames: int, elements: float) -> int:
    """How many of `frames`, which make up `elements`, one convolution may see."""
    return max(1, frames if elements <= MAX_ELEMENTS else int(frames * MAX_ELEMENTS / elements))
