"""Triton kernels for feature maps whose channels are last in memory; models/vae/feature_maps.py decides when they run.

A map [B, C, T, H, W] is given by its strides, so bands of rows and every second frame of a map need no copy.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .availability import on_its_device

_TILE = tl.constexpr(8192)  # values a program holds at once


@on_its_device
def moments(values: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Mean and variance [B, groups] of a contiguous map [B, C, T, H, W], in float32; C and groups are powers of two.

    Each program takes the mean of its rows of cells and the sum of squared differences from it; they are combined here
    (variance of a whole = mean of its parts' variances + variance of their means), which is exact to rounding where a
    sum of squares less the square of the mean would cancel.
    """
    batch, channels = values.shape[:2]
    positions = values[0, 0].numel()
    rows = _TILE.value // channels
    tiles = -(-positions // rows)
    mean, square = (torch.empty(batch, tiles, groups, device=values.device) for _ in range(2))
    options: dict[str, Any] = {"CHANNELS": channels, "GROUPS": groups, "num_warps": 8}
    _moments[(tiles, batch)](values, mean, square, positions, **options)
    counts = mean.new_full((tiles, 1), rows)
    counts[-1] = positions - rows * (tiles - 1)
    whole = (mean * counts).sum(dim=1) / positions
    between = (mean - whole[:, None]).square() * counts
    # `square` sums over positions and the channels of a group, `between` over positions only.
    return whole, (square.sum(dim=1) * groups / channels + between.sum(dim=1)) / positions


@on_its_device
def activate(values: Tensor, scale: Tensor, shift: Tensor, single: int, span: tuple[int, int], into: Tensor) -> None:
    """SiLU of rows of a map, times scale plus shift of their cells.

    Args:
        values, into: [B, C, T, rows, W].
        scale, shift: [B, t, h, w, C], float32.
        single: frames in front that have a cell of their own, 0 or 1.
        span: the first of the rows, counted in the map, and the height of the map.
    """
    cells = scale.shape[1:4]
    frames, width = into.shape[2], into.shape[4]
    sizes = (frames - single) // max(cells[0] - single, 1), span[1] // cells[1], width // cells[2]
    grid, options = _lines(into)
    numbers: list[Any] = [*_strides(values), *_strides(into), *_size(into), span[0], single, *cells, *sizes]
    _activate[grid](values, scale, shift, into, *numbers, **options)


@on_its_device
def write_with_bias(part: Tensor, bias: Tensor, into: Tensor, *, add: bool) -> None:
    """part [B, C, T, h, W] plus bias [C], written to a map of that shape or, with `add`, added to it.

    Both may be the same map.
    """
    grid, options = _lines(into, ADD=add)
    numbers: list[Any] = [*_strides(part), *_strides(into), *_size(into)]
    _write_with_bias[grid](part, bias, into, *numbers, **options)


def _lines(into: Tensor, **options: Any) -> tuple[tuple[int, int], dict[str, Any]]:
    """The grid of programs, one for some columns of each row of each frame of each clip, and their options."""
    batch, channels, frames, rows, width = into.shape
    held = _power_of_two(channels)
    columns = min(_power_of_two(width), max(_TILE.value // held, 1))
    grid = batch * frames * rows, -(-width // columns)
    return grid, {"COLUMNS": columns, "CHANNELS": held, "num_warps": 8, **options}


def _power_of_two(number: int) -> int:
    """The next one."""
    return 1 << (number - 1).bit_length()


def _size(x: Tensor) -> tuple[int, ...]:
    """Frames, rows, columns and channels."""
    return *x.shape[2:], x.shape[1]


def _strides(x: Tensor) -> tuple[int, ...]:
    return x.stride(0), *x.stride()[2:]


@triton.jit
def _moments(values, mean, square, positions, CHANNELS: tl.constexpr, GROUPS: tl.constexpr):
    ROWS: tl.constexpr = _TILE // CHANNELS
    tile, clip = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    row = tile * ROWS + tl.arange(0, ROWS)
    inside = (row < positions)[:, None]
    at = values + (clip * positions + row[:, None]) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    count = tl.minimum(ROWS, positions - tile * ROWS) * (CHANNELS // GROUPS)
    x = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    x = tl.reshape(x, (ROWS, GROUPS, CHANNELS // GROUPS))
    own = tl.sum(tl.sum(x, 2), 0) / count
    # Masked rows are 0 and not the mean: they must not count.
    apart = tl.where(inside[:, :, None], x - own[None, :, None], 0.0)
    at_group = (clip * tl.num_programs(0) + tile) * GROUPS + tl.arange(0, GROUPS)
    tl.store(mean + at_group, own)
    tl.store(square + at_group, tl.sum(tl.sum(apart * apart, 2), 0))


@triton.jit
def _activate(
    values, scale, shift, into, from_clip, from_frame, from_row, from_column, to_clip, to_frame, to_row, to_column,
    frames, rows, width, channels, start, single, cell_frames, cell_rows, cell_columns, per_frame, per_row, per_column,
    COLUMNS: tl.constexpr, CHANNELS: tl.constexpr
):  # fmt: skip
    line = tl.program_id(0).to(tl.int64)
    row, frame, clip = line % rows, line // rows % frames, line // rows // frames
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    channel = tl.arange(0, CHANNELS)[None, :]
    inside = (column < width)[:, None] & (channel < channels)
    x = tl.load(
        values + clip * from_clip + frame * from_frame + row * from_row + column[:, None] * from_column + channel,
        mask=inside,
        other=0.0,
    ).to(tl.float32)
    # The cell [t, h, w] of each position: frames in front have one each; rows count from the top of the map.
    cell = tl.where(frame < single, frame, single + (frame - single) // per_frame)
    cell = ((clip * cell_frames + cell) * cell_rows + (start + row) // per_row) * cell_columns + column // per_column
    at = cell[:, None] * channels + channel
    x = x * tl.load(scale + at, mask=inside, other=0.0) + tl.load(shift + at, mask=inside, other=0.0)
    into += clip * to_clip + frame * to_frame + row * to_row
    tl.store(into + column[:, None] * to_column + channel, x * tl.sigmoid(x), mask=inside)


@triton.jit
def _write_with_bias(
    part, bias, into, from_clip, from_frame, from_row, from_column, to_clip, to_frame, to_row, to_column,
    frames, rows, width, channels, ADD: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr
):  # fmt: skip
    line = tl.program_id(0).to(tl.int64)
    row, frame, clip = line % rows, line // rows % frames, line // rows // frames
    column = (tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS))[:, None]
    channel = tl.arange(0, CHANNELS)[None, :]
    inside = (column < width) & (channel < channels)
    part += clip * from_clip + frame * from_frame + row * from_row
    into += clip * to_clip + frame * to_frame + row * to_row + column * to_column + channel
    x = tl.load(part + column * from_column + channel, mask=inside).to(tl.float32)
    x += tl.load(bias + channel, mask=channel < channels).to(tl.float32)
    if ADD:
        x += tl.load(into, mask=inside).to(tl.float32)
    tl.store(into, x, mask=inside)
