"""Blended spatial tiling as diffusers does it, with whole tiles up to the edges: less memory, and a picture that is
close but not the same.

Each tile has its own GroupNorm statistics, which is why the result differs from the untiled one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from ..config import VAEConfig

TilingChoice = Literal["auto", "exact", "blended"]
"""The whole picture, blended tiles, or whichever fits into memory."""

TILING_CHOICES: tuple[TilingChoice, ...] = get_args(TilingChoice)

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


class _Tile(NamedTuple):
    """One tile along one side of the picture, in latents: where it starts and ends, how much of its start the tile
    before it covers too, and how much of it comes before the start of the next one."""

    start: int
    stop: int
    overlap: int
    keep: int


def _tiles_along(size: int, length: int, overlap: int) -> Iterator[_Tile]:
    """The tiles of a side of `size` latents, one after the other.

    The last one ends with the picture and is as long as the others, so that its norms see as much of it; it overlaps
    the one before by more.
    """
    last = max(size - length, 0)
    starts = [*range(0, last, length - overlap), last]
    covered = 0
    for start, following in pairwise([*starts, size]):
        stop = min(start + length, size)
        yield _Tile(start, stop, covered - start, following - start)
        covered = stop


def apply_tiled(
    function: Callable[[Tensor], Tensor], x: Tensor, tiling: Tiling, ratio: int, *, to_pixels: bool
) -> Tensor:
    """Run `function` on overlapping tiles of x [B, C, T, H, W] and blend the results.

    Args:
        function: maps a tile of all frames; shrinks or grows rows and columns by `ratio`.
        to_pixels: True for decoding (x is latent), False for encoding (x is pixels).
    Raises: ValueError for tiles that are not made of whole latents.
    Source: diffusers `AutoencoderKLCogVideoX.tiled_encode`, `tiled_decode`; but there the last tiles are what is left.
    """
    scale_in, scale_out = (1, ratio) if to_pixels else (ratio, 1)
    down, across = (
        list(_tiles_along(size // scale_in, *_in_latents(pixels, overlap, ratio)))
        for size, pixels, overlap in (
            (x.shape[3], tiling.tile_height, tiling.overlap_height),
            (x.shape[4], tiling.tile_width, tiling.overlap_width),
        )
    )
    above: list[Tensor] = []
    strips = []
    for vertical in down:
        rows = x[:, :, :, vertical.start * scale_in : vertical.stop * scale_in]
        row: list[Tensor] = []
        for horizontal in across:
            tile = function(rows[..., horizontal.start * scale_in : horizontal.stop * scale_in])
            if above:
                _blend(above[len(row)], tile, vertical.overlap * scale_out, dim=3)
            if row:
                _blend(row[-1], tile, horizontal.overlap * scale_out, dim=4)
            row.append(tile)
        kept = (
            tile[..., : vertical.keep * scale_out, : horizontal.keep * scale_out]
            for tile, horizontal in zip(row, across, strict=True)
        )
        strips.append(torch.cat(list(kept), dim=4))
        above = row
    return torch.cat(strips, dim=3)


def _in_latents(pixels: int, overlap: float, ratio: int) -> tuple[int, int]:
    """Length and overlap of the tiles along one side. Raises: ValueError if they are not whole latents."""
    length, shared = pixels / ratio, pixels / ratio * overlap
    if not (length.is_integer() and abs(shared - round(shared)) < _ROUNDING and 0 <= round(shared) < length):
        raise ValueError(
            f"tiles of {pixels} pixels with {overlap:.3f} of them overlapping; tile and overlap must both be whole "
            f"latents (multiples of {ratio} pixels): 240 and 1/6, say"
        )
    return int(length), round(shared)


def _blend(before: Tensor, tile: Tensor, extent: int, *, dim: int) -> None:
    """Fade in place from the last `extent` rows or columns (`dim`) of `before` into the first ones of `tile`."""
    shape = [1] * tile.ndim
    shape[dim] = extent
    ramp = torch.arange(extent, device=tile.device) / max(extent, 1)  # 16 bits do not count so far
    ramp = ramp.to(tile.dtype).view(shape)
    end = before.narrow(dim, before.shape[dim] - extent, extent)
    start = tile.narrow(dim, 0, extent)
    start.copy_(end * (1 - ramp) + start * ramp)
