"""Blended spatial tiling as diffusers does it: less memory, and a picture that is close but not the same.

Each tile has its own GroupNorm statistics, which is why the result differs from the untiled one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import VAEConfig

_ROUNDING = 1e-9  # 48 * (1 - 1 / 6) is a hair below 40


@dataclass(frozen=True)
class Tiling:
    """Size of a tile in pixels, and how much of it overlaps the next one."""

    tile_height: int = 240
    tile_width: int = 360
    overlap_height: float = 1 / 6
    overlap_width: float = 1 / 5

    @classmethod
    def of(cls, config: VAEConfig, height: int = 0, width: int = 0) -> Tiling:
        """Tiles of so many pixels, in whole latents; 0 for the published default, half the training size.

        The published parts of them overlap, to the nearest whole latent.
        """
        ratio = config.spatial_compression_ratio
        rows, columns = (
            max((side or default // 2) // ratio, 2)
            for side, default in ((height, config.sample_height), (width, config.sample_width))
        )
        overlaps = (
            max(round(count * part), 1) / count
            for count, part in ((rows, cls.overlap_height), (columns, cls.overlap_width))
        )
        return cls(rows * ratio, columns * ratio, *overlaps)


@dataclass(frozen=True)
class _Side:
    """One side of the tile grid: where tiles start and how long they are on the input, and what of each result is
    blended with its neighbour and kept."""

    stride: int
    length: int
    blend: int
    keep: int

    @classmethod
    def between(cls, length_in: int, length_out: int, overlap: float) -> _Side:
        """Raises: ValueError where strides on both sides of the VAE would not match, which gives a wrong size."""
        stride, blend = int(length_in * (1 - overlap) + _ROUNDING), int(length_out * overlap + _ROUNDING)
        keep = length_out - blend
        if stride < 1 or stride * length_out != keep * length_in:
            raise ValueError(
                f"tiles of {max(length_in, length_out)} pixels with {overlap:.3f} of them overlapping; tile and "
                "overlap must both be whole latents (multiples of 8 pixels): 240 and 1/6, say"
            )
        return cls(stride, length_in, blend, keep)


def apply_tiled(
    function: Callable[[Tensor], Tensor], x: Tensor, tiling: Tiling, ratio: int, *, to_pixels: bool
) -> Tensor:
    """Run `function` on overlapping tiles of x [B, C, T, H, W] and blend the results.

    Args:
        function: maps a tile of all frames; shrinks or grows rows and columns by `ratio`.
        to_pixels: True for decoding (x is latent), False for encoding (x is pixels).
    Raises: ValueError for tiles that are not made of whole latents.
    Source: diffusers `AutoencoderKLCogVideoX.tiled_encode`, `tiled_decode`.
    """
    rows_side, columns_side = (
        _Side.between(*((pixels // ratio, pixels) if to_pixels else (pixels, pixels // ratio)), overlap)
        for pixels, overlap in (
            (tiling.tile_height, tiling.overlap_height),
            (tiling.tile_width, tiling.overlap_width),
        )
    )
    above: list[Tensor] = []
    strips = []
    for top in range(0, x.shape[3], rows_side.stride):
        row: list[Tensor] = []
        for left in range(0, x.shape[4], columns_side.stride):
            tile = function(x[:, :, :, top : top + rows_side.length, left : left + columns_side.length])
            if above:
                _blend(above[len(row)], tile, rows_side.blend, dim=3)
            if row:
                _blend(row[-1], tile, columns_side.blend, dim=4)
            row.append(tile)
        strips.append(torch.cat([tile[..., : rows_side.keep, : columns_side.keep] for tile in row], dim=4))
        above = row
    return torch.cat(strips, dim=3)


def _blend(before: Tensor, tile: Tensor, extent: int, *, dim: int) -> None:
    """Fade in place from the end of `before` into the start of `tile` along `dim`."""
    extent = min(before.shape[dim], tile.shape[dim], extent)
    shape = [1] * tile.ndim
    shape[dim] = extent
    ramp = (torch.arange(extent, device=tile.device, dtype=tile.dtype) / max(extent, 1)).view(shape)
    end = before.narrow(dim, before.shape[dim] - extent, extent)
    start = tile.narrow(dim, 0, extent)
    start.copy_(end * (1 - ramp) + start * ramp)
