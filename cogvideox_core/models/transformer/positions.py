"""Where a token is: rotary tables, the additive sine-cosine table, and the sinusoidal code of a timestep.

Grids are (T, H, W) in tokens; w is the fastest axis, then h, then t.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from ..config import TransformerConfig

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


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # what is kept must also serve a caller outside of that mode
def rotary_table(
    grid: Grid,
    config: TransformerConfig,
    device: torch.device | str = "cpu",
    text_length: int = 0,
    axes: RotaryAxes = TRAINED_AXES,
) -> Rotary:
    """Cosines and sines of the rotary position code, one column per pair of channels; kept, so not to be written to.

    A head's channels are split 1/4 time, 3/8 rows, 3/8 columns.

    Args:
        text_length: rows in front that turn nothing.
        axes: changes to the positions the model was trained with.
    Returns: (cos, sin), each [text_length + T * H * W, head_dim / 2], float32.
    Source: diffusers `get_3d_rotary_pos_embed`; its grids "linspace" for the 1.0 family, "slice" for 1.5.
    """
    head_dim = config.attention_head_dim
    sizes = (head_dim // 4, head_dim // 8 * 3, head_dim // 8 * 3)
    angles = []
    trained = _rotary_positions(grid, config, device)
    for axis, (positions, change, size) in enumerate(zip(trained, axes, sizes, strict=True)):
        exponents = torch.arange(0, size, 2, dtype=torch.float32, device=device) / size
        along_axis = torch.outer(_moved(positions, change), 1.0 / _THETA**exponents)
        shape = [1, 1, 1, -1]
        shape[axis] = len(positions)
        angles.append(along_axis.view(shape).expand(*grid, -1))
    table = torch.cat(angles, dim=-1).flatten(0, 2)
    table = torch.cat([table.new_zeros(text_length, table.shape[1]), table])
    return table.cos(), table.sin()


def apply_rotary(x: Tensor, rotary: Rotary) -> Tensor:
    """Rotate neighbouring pairs of channels; in float32, returned in the dtype of x.

    Args: x: [B, S, heads, d]. rotary: (cos, sin), each [S, d / 2].
    """
    cos, sin = (part[:, None] for part in rotary)
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.addcmul(even * cos, odd, sin, value=-1), torch.addcmul(odd * cos, even, sin)
    return torch.stack(turned, dim=-1).flatten(-2).to(x.dtype)


@lru_cache(maxsize=8)
@torch.inference_mode(False)
def sincos_table(grid: Grid, config: TransformerConfig, device: torch.device | str = "cpu") -> Tensor:
    """The computed additive table of the 2B: a quarter of the width for time, then columns, then rows; kept as above.

    Returns: [T * H * W, D], float32.
    Source: diffusers `get_3d_sincos_pos_embed` (columns before rows is its order).
    """
    frames, rows, columns = grid
    temporal = config.width // 4
    spatial = (config.width - temporal) // 2
    parts = (
        _sincos(frames, config.temporal_interpolation_scale, temporal, device)[:, None, None],
        _sincos(columns, config.spatial_interpolation_scale, spatial, device)[None, None, :],
        _sincos(rows, config.spatial_interpolation_scale, spatial, device)[None, :, None],
    )
    return torch.cat([part.expand(*grid, -1) for part in parts], dim=-1).flatten(0, 2)


def _rotary_positions(grid: Grid, config: TransformerConfig, device: torch.device | str) -> tuple[Tensor, ...]:
    """Coordinates along t, h, w: integers in 1.5; in 1.0 the grid is fitted into the training grid."""
    frames, rows, columns = grid
    time = torch.arange(frames, dtype=torch.float32, device=device)
    if config.patch_size_t is not None:
        return time, *(torch.arange(n, dtype=torch.float32, device=device) for n in (rows, columns))
    base = (config.sample_height // config.patch_size, config.sample_width // config.patch_size)
    (top, bottom), (left, right) = _fit_region((rows, columns), base)
    return (
        time,
        torch.linspace(top, bottom * (rows - 1) / rows, rows, dtype=torch.float32, device=device),
        torch.linspace(left, right * (columns - 1) / columns, columns, dtype=torch.float32, device=device),
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


def _sincos(count: int, scale: float, width: int, device: torch.device | str) -> Tensor:
    """[count, width]: width / 2 sines, then width / 2 cosines, of position / scale."""
    half = width // 2
    frequencies = _THETA ** -(
        torch.arange(half, dtype=torch.float64) / half
    )  # on the CPU: not every device has float64
    angles = torch.outer(torch.arange(count, dtype=torch.float64) / scale, frequencies)
    return torch.cat([angles.sin(), angles.cos()], dim=-1).float().to(device)
