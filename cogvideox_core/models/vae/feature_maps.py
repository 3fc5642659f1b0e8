"""Feature maps by bands of rows, so that what is between two convolutions is never in memory as a whole.

A convolution needs few rows of its input at a time, and a norm, once the statistics of the whole map are known, only
the rows it writes. So a layer does not take a tensor but a `FeatureMap`, and has it write bands of rows into the
buffers that the convolution reads. Results are `Strips`, which their last reader frees as it proceeds. The numbers are
those of the whole map.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...kernels.availability import uses_triton
from ...kernels.torch_symbols import channel_moments
from .bands import empty

_VALUES_AT_ONCE, _ADDED_UP = 2048, 256  # together they fit a processor's cache

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


class Strips:
    """A map [B, C, T, H, W] cut into tensors [B, C, T, h, W], from top to bottom.

    Args: strips: in this order; they may be made as they are taken.
    """

    def __init__(self, strips: Iterable[Tensor]) -> None:
        self._by_top: dict[int, Tensor] = {}
        height = 0
        for strip in strips:
            self._by_top[height] = strip
            height += strip.shape[3]
        first = self._by_top[0]
        self.shape = torch.Size((*first.shape[:3], height, first.shape[4]))
        self.dtype, self.device, self.requires_grad = first.dtype, first.device, first.requires_grad

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self._by_top.values())

    def views(self, start: int, stop: int) -> Iterator[tuple[int, Tensor]]:
        """Rows `start` to `stop` without a copy: parts [B, C, T, h, W] from top to bottom, each with its first row."""
        for top, strip in self._by_top.items():
            first, last = max(top, start), min(top + strip.shape[3], stop)
            if first < last:
                yield first, strip[:, :, :, first - top : last - top]

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop` as one tensor [B, C, T, stop - start, W], copied where they are in several strips."""
        views = [view for _, view in self.views(start, stop)]
        if len(views) == 1:
            return views[0]
        together = empty((*self.shape[:3], stop - start, self.shape[4]), self)
        self.write(start, stop, together)
        return together

    def whole(self) -> Tensor:
        """All rows, [B, C, T, H, W]."""
        return self.rows(0, self.shape[3])

    def write(self, start: int, stop: int, into: Tensor) -> None:
        """As `FeatureMap.write`: into [B, C, T, stop - start, W]."""
        for first, view in self.views(start, stop):
            into[:, :, :, first - start : first - start + view.shape[3]] = view

    def add(self, bands: Iterable[Band]) -> None:
        """Add another map's bands in place; not where gradients are needed."""
        for band in bands:
            for first, view in self.views(band.start, band.stop):
                band.rows(first, first + view.shape[3]).write_to(view, add=True)

    def plus(self, bands: Iterable[Band]) -> Strips:
        """The sum with another map's bands, as a new map."""
        return Strips(self.rows(band.start, band.stop) + band.with_bias() for band in bands)

    def free_above(self, stop: int) -> None:
        """Free the strips that end above row `stop`; they can not be read any more."""
        for top in [top for top, strip in self._by_top.items() if top + strip.shape[3] <= stop]:
            del self._by_top[top]


class Band(NamedTuple):
    """Rows `start` to `stop` of a convolution's result [B, C, T, stop - start, W].

    `bias` [C] is still to be added to them; it is None where that is done, or where there is none.
    """

    start: int
    stop: int
    values: Tensor
    bias: Tensor | None = None

    def with_bias(self) -> Tensor:
        """The values with the bias added, in place: [B, C, T, stop - start, W]."""
        if self.bias is not None:
            self.write_to(self.values)
        return self.values

    def rows(self, start: int, stop: int) -> Band:
        """Some of its rows, counted from the top of the map."""
        return Band(start, stop, self.values[:, :, :, start - self.start : stop - self.start], self.bias)

    def write_to(self, into: Tensor, *, add: bool = False) -> None:
        """Write the values and the bias to [B, C, T, stop - start, W], or add them to what is there."""
        if self.bias is not None and _channels_last(self.values) and _channels_last(into):
            _kernels().write_with_bias(self.values, self.bias, into, add=add)
            return
        values = self.values if self.bias is None else self.values + self.bias.view(-1, 1, 1, 1)
        into.add_(values) if add else into.copy_(values)


Convolve = Callable[[Tensor], tuple[Tensor, Tensor | None]]
"""[B, C, T, H, W] -> a convolution's result, and the bias [C'] that is left to whoever writes it."""


def convolved(layer: Any, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """The result of a layer's convolution of x [B, C, T, H, W] or [N, C, H, W], and the bias still to be added to it.

    Where a Triton kernel writes the result on, the bias costs nothing there; elsewhere the layer adds it, and it is
    None.
    """
    kernel_weights = getattr(layer, "kernel_weights", None)
    weights = kernel_weights(x) if kernel_weights is not None and uses_triton(x) else None
    if weights is None or not _channels_last(x):
        return layer(x), None
    weight, bias = weights
    convolve = F.conv3d if x.ndim == 5 else F.conv2d
    return convolve(x, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups), bias


class Activated:
    """SiLU of a map [B, C, T, H, W] times `scale` plus `shift`, which are given for cells of it: [B, C, t, h, w].

    Cells divide rows and columns evenly. They divide frames evenly too, unless the first frame is treated on its
    own: then it has a cell of its own.
    """

    def __init__(self, values: Strips, scale: Tensor, shift: Tensor) -> None:
        self.values = values
        # In the order of the map, so that they are read along with it.
        self.scale, self.shift = (part.contiguous(memory_format=torch.channels_last_3d) for part in (scale, shift))
        self.shape, self.dtype, self.device = values.shape, values.dtype, values.device

    def write(self, start: int, stop: int, into: Tensor) -> None:
        """As `FeatureMap.write`: into [B, C, T, stop - start, W]."""
        if uses_triton(into) and _channels_last(into) and all(map(_channels_last, self.values)):
            self._write_by_kernel(start, stop, into)
            return
        for first, view in self.values.views(start, stop):
            self._scale(view, first, into[:, :, :, first - start : first - start + view.shape[3]])
        if not self.values.requires_grad:
            F.silu(into, inplace=True)

    def _write_by_kernel(self, start: int, stop: int, into: Tensor) -> None:
        scale, shift = (part.movedim(1, -1).contiguous() for part in (self.scale, self.shift))
        single = int(self.scale.shape[2] > 1 and first_is_single(self.shape[2]))
        for first, view in self.values.views(start, stop):
            rows = into[:, :, :, first - start : first - start + view.shape[3]]
            _kernels().activate(view, scale, shift, single, (first, self.shape[3]), rows)

    def _scale(self, view: Tensor, first: int, into: Tensor) -> None:
        """Rows from `first` on, times scale plus shift; where gradients are needed, SiLU of it at once.

        A map is split into (cells, values of a cell) along every axis, and scale and shift get an axis of length 1 for
        the latter, so that broadcasting repeats each for its cell without a copy of the size of the map. That takes
        cells of one size: so the first frame is done apart from the others, and rows that begin or end within a cell
        apart from whole cells.
        """
        stop = first + view.shape[3]
        for frames, cells_in_time in _frame_parts(self.shape[2], self.scale.shape[2]):
            for rows, cell_rows in _row_parts(first, stop, self.shape[3] // self.scale.shape[3]):
                cells = self.scale[:, :, cells_in_time, cell_rows], self.shift[:, :, cells_in_time, cell_rows]
                counts = cells[0].shape[2:]
                scale, shift = (part[:, :, :, None, :, None, :, None] for part in cells)  # [B, C, t, 1, h, 1, w, 1]
                here = slice(rows.start - first, rows.stop - first)
                values, target = (_by_cells(x[:, :, frames, here], counts) for x in (view, into))
                if view.requires_grad:
                    target.copy_(F.silu(torch.addcmul(shift, values, scale)))
                else:
                    torch.addcmul(shift, values, scale, out=target)


def first_is_single(num_frames: int) -> bool:
    """Whether the first frame of a chunk of this length is treated on its own."""
    return num_frames > 1 and num_frames % 2 == 1


def activated(values: Strips, norm: nn.GroupNorm, modulation: Modulation | None = None) -> FeatureMap:
    """SiLU of a group norm with the statistics of the whole map [B, C, T, H, W], times scale plus shift of its cells.

    Norm and modulation are one multiplication and addition: (x - mean) / std * weight + bias, times scale plus shift,
    is x * factor * scale + ((bias - mean * factor) * scale + shift) with factor = weight / std.
    """
    one = next(iter(values)).new_ones(1, 1, 1, 1, 1)
    scale, shift = modulation or (one, one - 1)
    if values.requires_grad:
        return Activated(Strips([norm(values.whole())]), scale, shift)
    mean, variance = (
        part.repeat_interleave(values.shape[1] // norm.num_groups, dim=1)[:, :, None, None, None]
        for part in _moments(values, norm.num_groups)
    )  # [B, C, 1, 1, 1], float32
    weight, bias = (part.to(mean).view(1, -1, 1, 1, 1) for part in (norm.weight, norm.bias))
    factor = weight * (variance + norm.eps).rsqrt()
    return Activated(values, factor * scale, torch.addcmul(shift.float(), bias - mean * factor, scale))


# --- Statistics -------------------------------------------------------------------------------------------------------
# The variance of a whole is computed from its parts' as the mean of their variances plus the variance of their means,
# each weighted by its share of the values. Sums of squares, from which the square of the mean is taken away, would lose
# the digits in which the two agree.


def _moments(values: Strips, groups: int) -> tuple[Tensor, Tensor]:
    """Mean and variance [B, groups] of a map, in float32, out of those of its strips."""
    of_strips = zip(*(_strip_moments(strip, groups) for strip in values), strict=True)
    mean, variance = (torch.stack(strips) for strips in of_strips)  # [strips, B, groups]
    share = mean.new_tensor([strip.shape[3] / values.shape[3] for strip in values]).view(-1, 1, 1)
    total = (mean * share).sum(dim=0)
    return total, ((variance + (mean - total).square()) * share).sum(dim=0)


def _strip_moments(strip: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Mean and variance [B, groups] of a strip [B, C, T, h, W], in float32."""
    in_order = strip.is_contiguous(memory_format=torch.channels_last_3d)
    if uses_triton(strip) and in_order and _are_powers_of_two(strip.shape[1], groups):
        return _kernels().moments(strip, groups)
    of_clips = zip(*map(_channel_moments, strip.float().split(1)), strict=True)
    mean, variance = (torch.stack(clips).unflatten(1, (groups, -1)) for clips in of_clips)  # [B, groups, C / groups]
    total = mean.mean(dim=2)
    return total, (variance + (mean - total[..., None]).square()).mean(dim=2)


def _channel_moments(clip: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance [C] of [1, C, T, H, W]."""
    if clip.device.type == "cpu" and _channels_last(clip):
        return _channel_moments_by_parts(clip)
    return channel_moments(clip)


def _channel_moments_by_parts(clip: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance [C] of [1, C, T, H, W] with its channels last.

    There PyTorch adds up one value after the other in float32, which is off by up to a thousandth where half of a
    picture is of one colour. Here it adds up `_ADDED_UP` values at a time, and the results of those parts are combined.
    So that this takes few calls, several neighbouring cells count as channels of their own: their number divides the
    number of cells, or a part would mix channels.
    """
    channels, cells = clip.shape[1], clip[0, 0].numel()
    neighbours = math.gcd(cells, max(1, _VALUES_AT_ONCE // channels))
    parts = clip.movedim(1, -1).reshape(-1, neighbours * channels).split(_ADDED_UP)  # [rows, neighbours * C] each
    of_parts = zip(*(channel_moments(x.T[None, :, :, None]) for x in parts), strict=True)
    mean, variance = (torch.stack(found).view(-1, neighbours, channels) for found in of_parts)
    share = mean.new_tensor([len(part) / cells for part in parts])[:, None, None]
    total = (mean * share).sum(dim=(0, 1))
    return total, ((variance + (mean - total).square()) * share).sum(dim=(0, 1))


# --- Cells ------------------------------------------------------------------------------------------------------------


def _frame_parts(frames: int, cells: int) -> list[tuple[slice, slice]]:
    """Frames, and the cells they belong to."""
    if cells > 1 and first_is_single(frames):
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


def _channels_last(values: Tensor) -> bool:
    return values.stride(1) == 1


def _are_powers_of_two(*numbers: int) -> bool:
    return all(number & (number - 1) == 0 for number in numbers)


def _kernels() -> Any:
    """The module of kernels, imported only where Triton is."""
    from ...kernels import triton_maps

    return triton_maps
