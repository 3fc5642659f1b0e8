"""Pixels to the moments of the posterior, one chunk of frames at a time."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from ..config import VAEConfig
from .blocks import Downsample3D, Stage, residual_stage
from .causal_conv import Carry, CausalConv3d
from .feature_maps import Strips, activated


class Encoder3D(nn.Module):
    """[B, 3, F, H, W] -> [B, 2 * latent_channels, F / 4, H / 8, W / 8]."""

    def __init__(self, config: VAEConfig, operations: Any, **factory: Any) -> None:
        super().__init__()
        widths = config.block_out_channels

        def stage(count: int, in_channels: int, out_channels: int) -> Stage:
            options = {"conditioned": False, **factory}
            return residual_stage(count, in_channels, out_channels, config, operations, **options)

        self.conv_in = CausalConv3d(config.in_channels, widths[0], operations, **factory)
        self.down_blocks = nn.ModuleList()
        time_levels = config.temporal_compression_ratio.bit_length() - 1
        for level, (width_in, width) in enumerate(pairwise((widths[0], *widths))):
            level_stage = stage(config.layers_per_block, width_in, width)
            if level < len(widths) - 1:
                halve_time = level < time_levels
                level_stage.downsamplers = nn.ModuleList(
                    [Downsample3D(width, operations, halve_time=halve_time, **factory)]
                )
            self.down_blocks.append(level_stage)
        self.mid_block = stage(2, widths[-1], widths[-1])
        self.norm_out = operations.GroupNorm(config.norm_num_groups, widths[-1], eps=1e-6, **factory)
        self.conv_out = CausalConv3d(widths[-1], 2 * config.latent_channels, operations, **factory)

    def forward(self, x: Tensor, carry: Carry) -> Tensor:
        maps = self.conv_in(Strips([x]), carry)
        for stage in self.down_blocks:
            maps = stage(maps, carry)
        maps = self.mid_block(maps, carry)
        return self.conv_out(activated(maps, self.norm_out), carry).whole().contiguous()
