"""Feature maps by bands of rows, so that between two convolutions nothing stands in memory as a whole.

A convolution needs few rows of its input at a time, and a norm, once the statistics of the whole picture are known,
none but its own. So a layer does not take a tensor but a `FeatureMap` and lets it write bands of rows where the
convolution reads them. The numbers are those of the whole picture.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BAND_ELEMENTS = 1 << 24
"""About how many values of a band are held at once; never more than 2^31, where GPU libraries run out of indices."""


class FeatureMap(Protocol):
    """[B, C, T, H, W], given by rows."""

    shape: torch.Size

    def write(self, start: int, stop: int, into: Tensor) -> None:
        """Rows `start` to `stop` into a tensor [B, C, T, stop - start, W]."""
        ...


class Stored:
    """A map that is a tensor."""

    def __init__(self, values: Tensor) -> None:
        self.values = values
        self.shape = values.shape

    def write(self, start: int, stop: int, into: Tensor) -> None:
        into.copy_(self.values[:, :, :, start:stop])


class Activated:
    """SiLU of a tensor times `scale` plus `shift`, which are given for cells of the tensor: [B, C, t, h, w].

    Cells divide rows and columns evenly, and frames too, but where the first frame stands apart it has its own.
    """

    def __init__(self, values: Tensor, scale: Tensor, shift: Tensor) -> None:
        self.values = values
        self.scale = scale
        self.shift = shift
        self.shape = values.shape

    def write(self, start: int, stop: int, into: Tensor) -> None:
        into = into.detach() if not self.values.requires_grad else into
        for frames, cells_in_time in _frame_parts(self.shape[2], self.scale.shape[2]):
            for rows, cell_rows in _row_parts(start, stop, self.shape[3] // self.scale.shape[3]):
                cells = self.scale[:, :, cells_in_time, cell_rows], self.shift[:, :, cells_in_time, cell_rows]
                counts = cells[0].shape[2:]
                scale, shift = (part[:, :, :, None, :, None, :, None] for part in cells)
                values = _by_cells(self.values[:, :, frames, rows], counts)
                place = _by_cells(into[:, :, frames, rows.start - start : rows.stop - start], counts)
                if self.values.requires_grad:
                    place.copy_(F.silu(torch.addcmul(shift, values, scale)))
                else:
                    torch.addcmul(shift, values, scale, out=place)
        if not self.values.requires_grad:
            F.silu(into, inplace=True)


def first_stands_apart(num_frames: int) -> bool:
    """Whether the first frame of a chunk of this length is treated on its own."""
    return num_frames > 1 and num_frames % 2 == 1


def bands(shape: torch.Size, elements_per_row: float | None = None) -> Iterator[tuple[int, int]]:
    """First and last row, exclusive, of bands that share the rows of a map evenly."""
    per_row = elements_per_row or math.prod(shape) / shape[3]
    number = min(shape[3], math.ceil(shape[3] * per_row / BAND_ELEMENTS)) or 1
    edges = [shape[3] * index // number for index in range(number + 1)]
    return pairwise(edges)


def collect(shape: torch.Size, parts: Iterator[tuple[int, Tensor]], onto: Tensor | None = None) -> Tensor:
    """Bands, each with its first row, to one tensor of this shape; or added to `onto`, in place.

    Where gradients are wanted `onto` is left as it is.
    """
    result = onto.clone() if onto is not None and onto.requires_grad else onto
    for start, part in parts:
        if result is None:
            if part.shape == shape:
                return part
            result = torch.empty(shape, dtype=part.dtype, device=part.device, memory_format=torch.channels_last_3d)
        band = result[:, :, :, start : start + part.shape[3]]
        band.add_(part) if onto is not None else band.copy_(part)
    assert result is not None
    return result


def activated(values: Tensor, norm: nn.GroupNorm, modulation: tuple[Tensor, Tensor] | None = None) -> FeatureMap:
    """Group norm with the statistics of the whole map, times and plus what the latents say [B, C, t, h, w], and SiLU."""
    scale, shift = modulation or (values.new_ones(()), values.new_zeros(()))
    if values.requires_grad or values.dtype != torch.float32:
        # In 16 bits scales of the norm must not be rounded; only its result is.
        return Activated(norm(values), *(part.expand(len(values), values.shape[1], *_cells(part)) for part in (scale, shift)))
    mean, variance = (
        part.repeat_interleave(values.shape[1] // norm.num_groups, dim=1)[..., None, None, None]
        for part in _moments(values, norm.num_groups)
    )
    weight, bias = (part.to(mean).view(1, -1, 1, 1, 1) for part in (norm.weight, norm.bias))
    factor = weight * (variance + norm.eps).rsqrt()
    return Activated(values, factor * scale, torch.addcmul(shift, bias - mean * factor, scale))


def _cells(part: Tensor) -> tuple[int, ...]:
    return tuple(part.shape[2:]) if part.ndim == 5 else (1, 1, 1)
