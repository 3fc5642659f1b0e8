"""The parts of encoder and decoder: norms, residual blocks, down- and upsampling.

One rule holds in all of them: where a chunk has an odd number of frames, greater than one, its first frame is treated
on its own (it is the clip's first), and only the others are paired or doubled in time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import VAEConfig
from .bands import bands, empty
from .causal_conv import CausalConv3d, ConvCache, PointwiseConv3d
from .feature_maps import Band, FeatureMap, Strips, activated
from .upsample_conv import conv_doubled


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

    def forward(self, x: Strips, z: Tensor) -> FeatureMap:
        """SiLU of the norm of x [B, C, T, H, W]; z: [B, latent_channels, t, h, w], the latents of the chunk."""
        return activated(x, self.norm_layer, (self.conv_y(z), self.conv_b(z)))


class ResnetBlock3D(nn.Module):
    """Norm, SiLU, convolution, twice, plus an identity or 1 x 1 x 1 shortcut; conditioned on z in the decoder."""

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

    def forward(self, x: Strips, cache: ConvCache, *z: Tensor) -> Strips:
        """[B, in_channels, T, H, W] -> [B, out_channels, T, H, W].

        Args:
            x: freed or overwritten.
            z: in the decoder the latents of the chunk [B, latent_channels, t, h, w], else nothing.
        """
        bands = self.conv1.bands(_activated(x, self.norm1, *z), cache)
        if self.conv_shortcut is None:
            hidden = Strips(band.with_bias() for band in bands)
        else:
            x, hidden = self._with_shortcut(x, self.conv_shortcut, bands)
        bands = self.conv2.bands(_activated(hidden, self.norm2, *z), cache)
        if x.requires_grad:
            return x.plus(bands)
        x.add(bands)
        return x

    @staticmethod
    def _with_shortcut(x: Strips, shortcut: nn.Module, bands: Iterator[Band]) -> tuple[Strips, Strips]:
        """The shortcut of x, and the bands of a convolution of x as a map; x is freed as they are made."""
        shortcuts, hidden = [], []
        for band in bands:
            hidden.append(band.with_bias())
            shortcuts.append(shortcut(x.rows(band.start, band.stop)))
            x.free_above(band.stop)
        return Strips(shortcuts), Strips(hidden)


def _activated(x: Strips, norm: Any, *z: Tensor) -> FeatureMap:
    return norm(x, *z) if z else activated(x, norm)


class Downsample3D(nn.Module):
    """Halves rows and columns with a strided convolution, and with `halve_time` averages pairs of frames before."""

    def __init__(self, channels: int, operations: Any, *, halve_time: bool, **factory: Any) -> None:
        super().__init__()
        self.halve_time = halve_time
        self.conv = operations.Conv2d(channels, channels, 3, stride=2, **factory)

    def forward(self, x: Strips) -> Strips:
        """x [B, C, T, H, W], which is freed -> [B, C, T or (T + 1) / 2, H / 2, W / 2]."""
        frames = (x.shape[2] + 1) // 2 if self.halve_time else x.shape[2]
        shape = torch.Size((*x.shape[:2], frames, x.shape[3] // 2, x.shape[4] // 2))
        per_row = 2 * x.shape.numel() / x.shape[3]
        return Strips(self._rows(x, start, stop) for start, stop in bands(shape, x.device, per_row))

    def _rows(self, x: Strips, start: int, stop: int) -> Tensor:
        below = max(2 * stop + 1 - x.shape[3], 0)  # a row of zeros at the lower edge
        rows = x.rows(2 * start, 2 * stop + 1 - below)
        x.free_above(2 * stop)
        if self.halve_time and x.shape[2] > 1:
            single = x.shape[2] % 2
            pairs = rows[:, :, single:].unflatten(2, (-1, 2)).mean(dim=3)
            rows = torch.cat([rows[:, :, :single], pairs], dim=2)
        return _clips(self.conv(F.pad(_frames(rows), (0, 1, 0, below))), rows)


class Upsample3D(nn.Module):
    """Doubles rows and columns, then convolves; with `double_time` frames are doubled too.

    The convolution sees single frames, so doubling in time commutes with it and comes last, at half the work.
    """

    def __init__(self, channels: int, operations: Any, *, double_time: bool, **factory: Any) -> None:
        super().__init__()
        self.double_time = double_time
        self.conv = operations.Conv2d(channels, channels, 3, padding=1, **factory)

    def forward(self, x: Strips) -> Strips:
        """x [B, C, T, H, W], which is freed -> [B, C, T or 2T or 2T - 1, 2H, 2W]."""
        doubled = self.double_time and x.shape[2] > 1
        frames = 2 * x.shape[2] - x.shape[2] % 2 if doubled else x.shape[2]
        shape = torch.Size((*x.shape[:2], frames, 2 * x.shape[3], 2 * x.shape[4]))
        return Strips(self._rows(x, start, stop, frames) for start, stop in bands(shape, x.device))

    def _rows(self, x: Strips, start: int, stop: int, num_frames: int) -> Tensor:
        """Rows of the result; the convolution takes one more on each side, and what it pads there is cut off."""
        top, bottom = max(start - 1, 0) // 2, min(stop // 2 + 1, x.shape[3])
        frames, bias = conv_doubled(self.conv, _frames(x.rows(top, bottom)))
        x.free_above(max(stop - 1, 0) // 2)
        rows = _clips(frames, x)[:, :, :, start - 2 * top : stop - 2 * top]
        single = x.shape[2] % 2 if num_frames > x.shape[2] else x.shape[2]
        result = empty((*rows.shape[:2], num_frames, stop - start, rows.shape[4]), rows)
        Band(start, stop, rows[:, :, :single], bias).write_to(result[:, :, :single])
        for twin in (single, single + 1):
            Band(start, stop, rows[:, :, single:], bias).write_to(result[:, :, twin::2])
        return result


class Stage(nn.Module):
    """Residual blocks of one width, followed by an optional change of resolution."""

    def __init__(self, resnets: list[ResnetBlock3D]) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(resnets)
        self.downsamplers: nn.ModuleList | None = None
        self.upsamplers: nn.ModuleList | None = None

    def forward(self, x: Strips, cache: ConvCache, *z: Tensor) -> Strips:
        """x [B, C, T, H, W], which is freed or overwritten -> the result of all blocks; z: as for them."""
        for resnet in self.resnets:
            x = resnet(x, cache, *z)
        for resample in self.downsamplers or self.upsamplers or ():
            x = resample(x)
        return x


def residual_stage(
    count: int, in_channels: int, out_channels: int, config: VAEConfig, operations: Any, **options: Any
) -> Stage:
    """A stage of `count` residual blocks, the first of which changes the width."""
    widths = [in_channels] + [out_channels] * (count - 1)
    return Stage([ResnetBlock3D(width, out_channels, config, operations, **options) for width in widths])


def _frames(x: Tensor) -> Tensor:
    """[B, C, T, H, W] -> [B * T, C, H, W]."""
    return x.transpose(1, 2).flatten(0, 1)


def _clips(frames: Tensor, like: Tensor | Strips) -> Tensor:
    """[B * T, C, H, W] -> [B, C, T, H, W], with B and T of another map."""
    return frames.unflatten(0, (like.shape[0], like.shape[2])).transpose(1, 2)
