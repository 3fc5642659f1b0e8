"""Latents to pixels, one chunk of latent frames at a time; every norm is conditioned on the chunk's latents."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from ..config import VAEConfig
from .blocks import SpatialNorm3D, Stage, Upsample3D, residual_stage
from .causal_conv import Carry, CausalConv3d
from .feature_maps import Strips


class Decoder3D(nn.Module):
    """[B, latent_channels, T, H, W] -> [B, 3, F, 8H, 8W]; F is 4T for even T, 4(T - 1) + 1 for odd T."""

    def __init__(self, config: VAEConfig, operations: Any, **factory: Any) -> None:
        super().__init__()
        widths = config.block_out_channels[::-1]

        def stage(count: int, in_channels: int, out_channels: int) -> Stage:
            options = {"conditioned": True, **factory}
            return residual_stage(count, in_channels, out_channels, config, operations, **options)

        self.conv_in = CausalConv3d(config.latent_channels, widths[0], operations, **factory)
        self.mid_block = stage(2, widths[0], widths[0])
        self.up_blocks = nn.ModuleList()
        time_levels = config.temporal_compression_ratio.bit_length() - 1
        for level, (width_in, width) in enumerate(pairwise((widths[0], *widths))):
            level_stage = stage(config.layers_per_block + 1, width_in, width)
            if level < len(widths) - 1:
                double_time = level < time_levels
                level_stage.upsamplers = nn.ModuleList(
                    [Upsample3D(width, operations, double_time=double_time, **factory)]
                )
            self.up_blocks.append(level_stage)
        self.norm_out = SpatialNorm3D(widths[-1], config, operations, **factory)
        self.conv_out = CausalConv3d(widths[-1], config.out_channels, operations, **factory)

    def forward(self, z: Tensor, carry: Carry) -> Tensor:
        x = self.conv_in(Strips([z]), carry)
        x = self.mid_block(x, carry, z)
        for stage in self.up_blocks:
            x = stage(x, carry, z)
        return self.conv_out(self.norm_out(x, z), carry).whole().contiguous()
