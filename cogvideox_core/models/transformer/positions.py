"""Where a token is: rotary tables, the additive sine-cosine table, and the sinusoidal code of a timestep.

Grids are (T, H, W) in tokens; w is the fastest axis, then h, then t. A table is a product of three short axes, so only
their codes are kept, in CPU memory: nothing here holds memory of a GPU between calls.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ...kernels.devices import copies_aside
from ..config import PositionTable, TransformerConfig

Grid = tuple[int, int, int]
Rotary = tuple[Tensor, Tensor]


class Axis(NamedTuple):
    """A change to the rotary positions along one axis; the first token's position is the fixed point of the scale.

    Attributes:
        scale: of the distances between tokens.
        shift: of all tokens, in positions.
    """

    scale: float = 1.0
    shift: float = 0.0


RotaryAxes = tuple[Axis, Axis, Axis]
"""Time, rows, columns."""

TRAINED_AXES: RotaryAxes = (Axis(), Axis(), Axis())


class Positions(NamedTuple):
    """What is changed about positions, in a run, against those the model was trained with.

    Attributes:
        axes: the rotary ones; ignored where the model has none.
        table: what becomes of a learned table; ignored where the model has none.
    """

    axes: RotaryAxes = TRAINED_AXES
    table: PositionTable = "trained"


AS_TRAINED = Positions()

_THETA = 10000.0


def timestep_embedding(timestep: Tensor, width: int) -> Tensor:
    """Sinusoidal code of a timestep, cosines before sines.

    Args: timestep: [B], any real number. width: even.
    Returns: [B, width], float32.
    Source: diffusers `Timesteps(flip_sin_to_cos=True, downscale_freq_shift=0)`.
    """
    half = width // 2
    exponents = torch.arange(half, dtype=torch.float32, device=timestep.device) / half
    angles = timestep.float()[:, None] * torch.exp(-math.log(_THETA) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def rotary_table(
    grid: Grid,
    config: TransformerConfig,
    device: torch.device | str = "cpu",
    text_length: int = 0,
    axes: RotaryAxes = TRAINED_AXES,
) -> Rotary:
    """Cosines and sines of the rotary position code, one column per pair of channels.

    A head's channels are split 1/4 time, 3/8 rows, 3/8 columns. The table is put together on the device from the codes
    of its three axes, which are small: what is kept between calls is in CPU memory, and a few hundred kilobytes.

    Args:
        text_length: rows in front that are not rotated.
        axes: changes to the positions the model was trained with.
    Returns: (cos, sin), each [text_length + T * H * W, head_dim / 2], float32.
    Source: diffusers `get_3d_rotary_pos_embed`; its grids "linspace" for the 1.0 family, "slice" for 1.5.
    """
    table = torch.empty(2, text_length + math.prod(grid), config.attention_head_dim // 2, device=device)
    table[0, :text_length], table[1, :text_length] = 1.0, 0.0
    video = table[:, text_length:].unflatten(1, grid)  # [2, T, H, W, head_dim / 2]
    start = 0
    for axis, code in enumerate(_rotary_codes(grid, config, axes), 1):
        shape = [2, 1, 1, 1, code.shape[2]]
        shape[axis] = code.shape[1]
        video[..., start : start + code.shape[2]] = code.to(table.device, non_blocking=copies_aside(table.device)).view(
            shape
        )
        start += code.shape[2]
    return table[0], table[1]


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # what is kept must also serve a caller outside of that mode
def _rotary_codes(grid: Grid, config: TransformerConfig, axes: RotaryAxes) -> tuple[Tensor, ...]:
    """Cosines and sines [2, n, channels / 2] of the n positions along t, h, w, in CPU memory; not to be written to."""
    head_dim = config.attention_head_dim
    sizes = (head_dim // 4, head_dim // 8 * 3, head_dim // 8 * 3)
    codes = []
    for positions, change, size in zip(_rotary_positions(grid, config), axes, sizes, strict=True):
        exponents = torch.arange(0, size, 2, dtype=torch.float32, device="cpu") / size
        angles = torch.outer(_moved(positions, change), 1.0 / _THETA**exponents)
        codes.append(torch.stack([angles.cos(), angles.sin()]))
    return tuple(codes)


def apply_rotary(x: Tensor, rotary: Rotary) -> Tensor:
    """Rotate neighbouring pairs of channels, in float32.

    Args: x: [B, S, heads, d]. rotary: (cos, sin), each [S, d / 2].
    Returns: [B, S, heads, d], in the dtype of x.
    """
    cos, sin = (part[:, None] for part in rotary)
    pairs = x.float().unflatten(-1, (-1, 2))
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        # As complex numbers in one pass, ten times as fast as in steps of two; GPUs gain nothing, compilers know none.
        rotated = torch.view_as_complex(pairs.contiguous()) * torch.complex(cos, sin)
        return torch.view_as_real(rotated).flatten(-2).to(x.dtype)
    even, odd = pairs.unbind(-1)
    rotated = torch.addcmul(even * cos, odd, sin, value=-1), torch.addcmul(odd * cos, even, sin)
    return torch.stack(rotated, dim=-1).flatten(-2).to(x.dtype)


def table_at(table: Tensor, grid: Grid, config: TransformerConfig) -> Tensor:
    """The rows of a learned table for the video, at any grid: the first frames of it, or interpolated between its cells
    where the grid has more frames, or other rows and columns, than the training size.

    Args: table: [1, text tokens + T * H * W of the training size, D].
    Returns: [1, T * H * W of the grid, D].
    """
    cells = table[:, config.max_text_seq_length :].unflatten(1, config.training_grid)[:, : grid[0]]  # [1, T, H, W, D]
    if cells.shape[1:4] != grid:
        cells = F.interpolate(cells.movedim(-1, 1), grid, mode="trilinear").movedim(1, -1)
    return cells.flatten(1, 3)


def sincos_table(
    grid: Grid,
    config: TransformerConfig,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The computed additive table of the 2B: a quarter of the width for time, then columns, then rows.

    Like the rotary table it is put together on the device.

    Returns: [T * H * W, D], rounded from float32 to `dtype`.
    Source: diffusers `get_3d_sincos_pos_embed` (columns before rows is its order).
    """
    how: dict[str, Any] = {"device": device, "dtype": dtype, "non_blocking": copies_aside(torch.device(device))}
    time, columns, rows = (code.to(**how) for code in _sincos_codes(grid, config))
    parts = time[:, None, None], columns[None, None, :], rows[None, :, None]
    return torch.cat([part.expand(*grid, -1) for part in parts], dim=-1).flatten(0, 2)


@lru_cache(maxsize=8)
@torch.inference_mode(False)
def _sincos_codes(grid: Grid, config: TransformerConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Codes of time, columns and rows, each [n, its share of D] in float32 in CPU memory; not to be written to."""
    frames, rows, columns = grid
    temporal = config.width // 4
    spatial = (config.width - temporal) // 2
    return (
        _sincos(frames, config.temporal_interpolation_scale, temporal),
        _sincos(columns, config.spatial_interpolation_scale, spatial),
        _sincos(rows, config.spatial_interpolation_scale, spatial),
    )


def _rotary_positions(grid: Grid, config: TransformerConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Coordinates [n] along t, h, w: integers in 1.5; in 1.0 the grid is fitted into the training grid."""
    frames, rows, columns = grid
    options: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}
    time = torch.arange(frames, **options)
    if config.patch_size_t is not None:
        return time, torch.arange(rows, **options), torch.arange(columns, **options)
    (top, bottom), (left, right) = _fit_region((rows, columns), config.training_grid[1:])
    return (
        time,
        torch.linspace(top, bottom * (rows - 1) / rows, rows, **options),
        torch.linspace(left, right * (columns - 1) / columns, columns, **options),
    )


def _moved(positions: Tensor, axis: Axis) -> Tensor:
    """Positions [n] after a change; to the bit as they are where there is none."""
    return positions if axis == Axis() else positions[0] + (positions - positions[0]) * axis.scale + axis.shift


def _fit_region(size: tuple[int, int], base: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """The centred part of the base grid that has the aspect ratio of `size`: (top, bottom), (left, right)."""
    rows, columns = size
    base_rows, base_columns = base
    if rows / columns > base_rows / base_columns:
        fit_rows, fit_columns = base_rows, round(base_rows / rows * columns)
    else:
        fit_rows, fit_columns = round(base_columns / columns * rows), base_columns
    top = round((base_rows - fit_rows) / 2)
    left = round((base_columns - fit_columns) / 2)
    return (top, top + fit_rows), (left, left + fit_columns)


def _sincos(count: int, scale: float, width: int) -> Tensor:
    """[count, width]: width / 2 sines, then width / 2 cosines, of position / scale; computed in float64."""
    options: dict[str, Any] = {"dtype": torch.float64, "device": "cpu"}
    half = width // 2
    frequencies = _THETA ** -(torch.arange(half, **options) / half)
    angles = torch.outer(torch.arange(count, **options) / scale, frequencies)
    return torch.cat([angles.sin(), angles.cos()], dim=-1).float()
