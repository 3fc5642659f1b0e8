"""Feature maps by bands of rows, so that between two convolutions nothing stands in memory as a whole.

A convolution needs few rows of its input at a time, and a norm, once the statistics of the whole picture are known,
none but its own. So a layer does not take a tensor but a `FeatureMap`, asks it for a band of rows, and what lies in
between (norm, activation, resizing) is computed for that band. The numbers are those of the whole picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BAND_ELEMENTS = 1 << 24
"""About how many values of a band are held at once; never more than 2^31, where GPU libraries run out of indices."""


class FeatureMap(Protocol):
    """[B, C, T, H, W], given by rows."""

    @property
    def shape(self) -> torch.Size: ...

    def rows(self, start: int, stop: int) -> Tensor:
        """[B, C, T, stop - start, W]; not to be written to."""
        ...


class Stored:
    """A map that is a tensor."""

    def __init__(self, values: Tensor) -> None:
        self.values = values
        self.shape = values.shape

    def rows(self, start: int, stop: int) -> Tensor:
        return self.values[:, :, :, start:stop]


class Mapped:
    """A function of another map that treats every place alike: `function(rows, start, stop)`."""

    def __init__(self, source: FeatureMap, function: Callable[[Tensor, int, int], Tensor]) -> None:
        self.source = source
        self.function = function
        self.shape = source.shape

    def rows(self, start: int, stop: int) -> Tensor:
        return self.function(self.source.rows(start, stop), start, stop)


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


# --- Norms -----------------------------------------------------------------------------------------------------------


def normalised(source: FeatureMap, norm: nn.GroupNorm) -> FeatureMap:
    """The group norm of a map: statistics over all of it, computed now; the rest where it is asked for."""
    if isinstance(source, Stored) and source.values.requires_grad:
        return Stored(norm(source.values))
    mean, variance = (
        values.repeat_interleave(source.shape[1] // norm.num_groups, dim=1)
        for values in _moments(source, norm.num_groups)
    )
    weight, bias = (parameter.to(mean) for parameter in (norm.weight, norm.bias))

    def apply(x: Tensor, start: int, stop: int) -> Tensor:
        # With given statistics a group norm is a batch norm, and there is a kernel for that.
        clips = [
            F.batch_norm(clip, mean[index], variance[index], weight, bias, training=False, eps=norm.eps)
            for index, clip in enumerate(x.split(1))
        ]
        return clips[0] if len(clips) == 1 else torch.cat(clips)

    return Mapped(source, apply)


def _moments(source: FeatureMap, groups: int) -> tuple[Tensor, Tensor]:
    """Mean and variance [B, groups] of a map, in float32, band by band (Chan's formula)."""
    batch = source.shape[0]
    count = 0
    mean = square = torch.zeros(batch, groups)
    for start, stop in bands(source.shape):
        rows = source.rows(start, stop).float()
        size = rows[0].numel() // groups
        # Channels lie innermost: per channel first, then the few channels of a group.
        channel_mean = rows.mean(dim=(2, 3, 4))
        channel_square = (rows - channel_mean[:, :, None, None, None]).square_().mean(dim=(2, 3, 4))
        by_group = channel_mean.view(batch, groups, -1)
        band_mean = by_group.mean(dim=2)
        spread = (by_group - band_mean[:, :, None]).square() + channel_square.view(batch, groups, -1)
        band_square = spread.mean(dim=2)
        if not count:
            count, mean, square = size, band_mean, band_square
            continue
        total, apart = count + size, band_mean - mean
        mean = mean + apart * (size / total)
        square = (square * count + band_square * size) / total + apart.square() * (count * size / total**2)
        count = total
    return mean, square
