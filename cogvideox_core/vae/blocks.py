"""The parts of encoder and decoder: norms, residual blocks, down- and upsampling.

A rule runs through all of them: where a chunk holds an odd number of frames, greater than one, its first frame stands
apart (it is the clip's first), and only the others are paired or doubled in time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import VAEConfig
from .causal_conv import Carry, CausalConv3d, PointwiseConv3d, per_frame


def first_stands_apart(num_frames: int) -> bool:
    """Whether the first frame of a chunk of this length is treated on its own."""
    return num_frames > 1 and num_frames % 2 == 1


class SpatialNorm3D(nn.Module):
    """GroupNorm whose scale and shift come from the latents: GN(x) * conv_y(z) + conv_b(z).

    The 1 x 1 x 1 convolutions run at latent resolution and their results are resized: nearest resizing commutes with
    them, so this is the published function at a fraction of the work.
    """

    def __init__(self, channels: int, config: VAEConfig, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.norm_layer = operations.GroupNorm(config.norm_num_groups, channels, eps=1e-6, **factory)
        self.conv_y = PointwiseConv3d(config.latent_channels, channels, operations, **factory)
        self.conv_b = PointwiseConv3d(config.latent_channels, channels, operations, **factory)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        size = x.shape[2:]
        return self.norm_layer(x) * _resize(self.conv_y(z), size) + _resize(self.conv_b(z), size)


class ResnetBlock3D(nn.Module):
    """Norm, SiLU, convolution, twice, beside an identity or 1 x 1 x 1 shortcut; conditioned on z in the decoder."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        config: VAEConfig,
        operations: Any,
        *,
        conditioned: bool,
        **factory: Any,
    ) -> None:
        super().__init__()

        def norm(channels: int) -> nn.Module:
            if conditioned:
                return SpatialNorm3D(channels, config, operations, **factory)
            return operations.GroupNorm(config.norm_num_groups, channels, eps=config.norm_eps, **factory)

        self.norm1 = norm(in_channels)
        self.conv1 = CausalConv3d(in_channels, out_channels, operations, **factory)
        self.norm2 = norm(out_channels)
        self.conv2 = CausalConv3d(out_channels, out_channels, operations, **factory)
        self.conv_shortcut = None
        if in_channels != out_channels:
            self.conv_shortcut = operations.Conv3d(in_channels, out_channels, 1, **factory)

    def forward(self, x: Tensor, carry: Carry, *z: Tensor) -> Tensor:
        """x: [B, C, T, H, W]; z: the latents of the chunk in the decoder, nothing in the encoder."""
        hidden = self.conv1(F.silu(self.norm1(x, *z)), carry)
        hidden = self.conv2(F.silu(self.norm2(hidden, *z)), carry)
        return hidden + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class Downsample3D(nn.Module):
    """Halves rows and columns with a strided convolution, and with `halve_time` averages pairs of frames before."""

    def __init__(self, channels: int, operations: Any, *, halve_time: bool, **factory: Any) -> None:
        super().__init__()
        self.halve_time = halve_time
        self.conv = operations.Conv2d(channels, channels, 3, stride=2, **factory)

    def forward(self, x: Tensor) -> Tensor:
        if self.halve_time and x.shape[2] > 1:
            single = x.shape[2] % 2
            pairs = x[:, :, single:].unflatten(2, (-1, 2)).mean(dim=3)
            x = torch.cat([x[:, :, :single], pairs], dim=2)
        return per_frame(lambda frames: self.conv(F.pad(frames, (0, 1, 0, 1))), x)


class Upsample3D(nn.Module):
    """Doubles rows and columns, then convolves; with `double_time` frames are doubled too.

    The convolution sees single frames, so doubling in time commutes with it and comes last, at half the work.
    """

    def __init__(self, channels: int, operations: Any, *, double_time: bool, **factory: Any) -> None:
        super().__init__()
        self.double_time = double_time
        self.conv = operations.Conv2d(channels, channels, 3, padding=1, **factory)

    def forward(self, x: Tensor) -> Tensor:
        x = per_frame(lambda frames: self.conv(F.interpolate(frames, scale_factor=2.0, mode="nearest")), x, growth=4)
        if not self.double_time or x.shape[2] == 1:
            return x
        single = x.shape[2] % 2
        return torch.cat([x[:, :, :single], x[:, :, single:].repeat_interleave(2, dim=2)], dim=2)


class Stage(nn.Module):
    """A run of residual blocks at one width, followed by an optional change of resolution."""

    def __init__(self, resnets: list[ResnetBlock3D]) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(resnets)
        self.downsamplers: nn.ModuleList | None = None
        self.upsamplers: nn.ModuleList | None = None

    def forward(self, x: Tensor, carry: Carry, *z: Tensor) -> Tensor:
        for resnet in self.resnets:
            x = resnet(x, carry, *z)
        for resample in self.downsamplers or self.upsamplers or ():
            x = resample(x)
        return x


def residual_stage(
    count: int, in_channels: int, out_channels: int, config: VAEConfig, operations: Any, **options: Any
) -> Stage:
    """A stage of `count` residual blocks, the first of which changes the width."""
    widths = [in_channels] + [out_channels] * (count - 1)
    return Stage([ResnetBlock3D(width, out_channels, config, operations, **options) for width in widths])


def _resize(z: Tensor, size: torch.Size) -> Tensor:
    """Nearest resize of [B, C, T, H, W] to `size`, first frame to first frame where it stands apart."""
    if not first_stands_apart(size[0]):
        return F.interpolate(z, size=size, mode="nearest")
    first = F.interpolate(z[:, :, :1], size=(1, *size[1:]), mode="nearest")
    rest = F.interpolate(z[:, :, 1:], size=(size[0] - 1, *size[1:]), mode="nearest")
    return torch.cat([first, rest], dim=2)
