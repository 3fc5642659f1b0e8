"""Feature maps by bands of rows, so that between two convolutions nothing stands in memory as a whole.

A convolution needs few rows of its input at a time, and a norm, once the statistics of the whole picture are known,
none but its own. So a layer does not take a tensor but a `FeatureMap` and lets it write bands of rows where the
convolution reads them. The numbers are those of the whole picture.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BAND_ELEMENTS = 1 << 24
"""About how many values of a band are held at once; never more than 2^31, where GPU libraries run out of indices."""

Modulation = tuple[Tensor, Tensor]
"""Scale and shift [B, C, t, h, w] for cells of a map that divide it evenly."""


class FeatureMap(Protocol):
    """[B, C, T, H, W], given by rows."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device

    def write(self, start: int, stop: int, into: Tensor) -> None:
        """Rows `start` to `stop` into a tensor [B, C, T, stop - start, W]."""
        ...


class Stored:
    """A map that is a tensor."""

    def __init__(self, values: Tensor) -> None:
        self.values = values
        self.shape, self.dtype, self.device = values.shape, values.dtype, values.device

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
        self.shape, self.dtype, self.device = values.shape, values.dtype, values.device

    def write(self, start: int, stop: int, into: Tensor) -> None:
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


def empty(shape: Sequence[int], like: Tensor | FeatureMap, device: torch.device | None = None) -> Tensor:
    """A map to be filled, with its channels last, which is how convolutions read."""
    place = device or like.device
    return torch.empty(tuple(shape), dtype=like.dtype, device=place, memory_format=torch.channels_last_3d)


def collect(shape: torch.Size, parts: Iterator[tuple[int, Tensor]], onto: Tensor | None = None) -> Tensor:
    """Bands, each with its first row, to one tensor of this shape; or added to `onto`, in place.

    Where gradients are wanted `onto` is left as it is.
    """
    result = onto.clone() if onto is not None and onto.requires_grad else onto
    for start, part in parts:
        if result is None:
            if part.shape == shape:
                return part
            result = empty(shape, part)
        band = result[:, :, :, start : start + part.shape[3]]
        band.add_(part) if onto is not None else band.copy_(part)
    assert result is not None
    return result


def activated(values: Tensor, norm: nn.GroupNorm, modulation: Modulation | None = None) -> FeatureMap:
    """Group norm with the statistics of the whole map, times and plus what is given for cells of it, and SiLU."""
    scale, shift = modulation or (values.new_ones(1, 1, 1, 1, 1), values.new_zeros(1, 1, 1, 1, 1))
    if values.requires_grad:
        return Activated(norm(values), scale, shift)
    mean, variance = (
        part.repeat_interleave(values.shape[1] // norm.num_groups, dim=1)[:, :, None, None, None]
        for part in _moments(values, norm.num_groups)
    )
    weight, bias = (part.to(mean).view(1, -1, 1, 1, 1) for part in (norm.weight, norm.bias))
    factor = weight * (variance + norm.eps).rsqrt()
    return Activated(values, factor * scale, torch.addcmul(shift.float(), bias - mean * factor, scale))


def _moments(values: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Mean and variance [B, groups] of a map, in float32, some frames at a time (Chan's formula)."""
    batch, channels = values.shape[:2]
    count = 0
    mean = square = torch.zeros(batch, groups)
    at_once = max(BAND_ELEMENTS * values.shape[2] // values.numel(), 1)  # frames lie behind each other, rows do not
    for frames in values.split(at_once, dim=2):
        size = frames[0].numel() // groups
        by_channel = [_channel_moments(clip.float()) for clip in frames.split(1)]
        channel_mean, channel_variance = (
            torch.stack(parts).view(batch, groups, channels // groups) for parts in zip(*by_channel, strict=True)
        )
        band_mean = channel_mean.mean(dim=2)
        band_variance = (channel_variance + (channel_mean - band_mean[:, :, None]).square()).mean(dim=2)
        if not count:
            count, mean, square = size, band_mean, band_variance
            continue
        total, apart = count + size, band_mean - mean
        mean = mean + apart * (size / total)
        square = (square * count + band_variance * size) / total + apart.square() * (count * size / total**2)
        count = total
    return mean, square


def _channel_moments(clip: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance [C] of [1, C, T, H, W]."""
    if clip.device.type in ("cpu", "cuda"):
        mean, variance = torch.batch_norm_update_stats(clip, None, None, 0.0)
        return mean, variance
    variance, mean = torch.var_mean(clip, dim=(0, 2, 3, 4), correction=0)
    return mean, variance


def _frame_parts(frames: int, cells: int) -> list[tuple[slice, slice]]:
    """Frames, and the cells they belong to."""
    if cells > 1 and first_stands_apart(frames):
        return [(slice(0, 1), slice(0, 1)), (slice(1, frames), slice(1, cells))]
    return [(slice(0, frames), slice(0, cells))]


def _row_parts(start: int, stop: int, size: int) -> Iterator[tuple[slice, slice]]:
    """Rows `start` to `stop`, and the rows of cells they belong to, each `size` high: the beginning and the end of a
    cell apart from whole ones."""
    first, last = -(-start // size) * size, stop // size * size  # where whole cells begin and end
    edges = sorted({start, stop, *((first, last) if first <= last else ())})
    for top, bottom in pairwise(edges):
        yield slice(top, bottom), slice(top // size, -(-bottom // size))


def _by_cells(values: Tensor, counts: tuple[int, ...]) -> Tensor:
    """[B, C, T, H, W] as [B, C, t, T / t, h, H / h, w, W / w]."""
    for dim, count in zip((2, 4, 6), counts, strict=True):
        values = values.unflatten(dim, (count, -1))
    return values
