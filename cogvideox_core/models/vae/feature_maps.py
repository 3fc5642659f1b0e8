"""Feature maps by bands of rows, so that what lies between two convolutions never stands in memory as a whole.

A convolution needs few rows of its input at a time, and a norm, once the statistics of the whole picture are known,
none but its own. So a layer does not take a tensor but a `FeatureMap` and lets it write bands of rows where the
convolution reads them; and what it makes are `Strips`, of which the last reader lets go as it proceeds. The numbers are
those of the whole picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...kernels.availability import uses_triton
from ...kernels.torch_symbols import channel_moments


class BandSize(NamedTuple):
    """About how many values a band holds: an eighth of the map, but neither so few that only calls take time, nor more
    than 2^31, where GPU libraries run out of indices."""

    least: int
    most: int


ON_CPU, ON_GPU = BandSize(1 << 22, 1 << 26), BandSize(1 << 26, 1 << 28)
_SHARE = 8

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
    """A map that is tensors [B, C, T, h, W], which share its rows between them from top to bottom."""

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
        """Rows `start` to `stop` as they lie in memory: parts from top to bottom, each with its first row."""
        for top, strip in self._by_top.items():
            first, last = max(top, start), min(top + strip.shape[3], stop)
            if first < last:
                yield first, strip[:, :, :, first - top : last - top]

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop` as one tensor."""
        views = [view for _, view in self.views(start, stop)]
        if len(views) == 1:
            return views[0]
        together = empty((*self.shape[:3], stop - start, self.shape[4]), self)
        self.write(start, stop, together)
        return together

    def whole(self) -> Tensor:
        return self.rows(0, self.shape[3])

    def write(self, start: int, stop: int, into: Tensor) -> None:
        for first, view in self.views(start, stop):
            into[:, :, :, first - start : first - start + view.shape[3]] = view

    def added(self, bands: Iterable[Band]) -> Strips:
        """The sum with another map's bands, in place where nobody asks for gradients."""
        if self.requires_grad:
            return Strips(self.rows(band.start, band.stop) + band.finished() for band in bands)
        for band in bands:
            for first, view in self.views(band.start, band.stop):
                band.rows(first, first + view.shape[3]).put(view, add=True)
        return self

    def let_go(self, stop: int) -> None:
        """Free what ends above row `stop`; nobody may read it any more."""
        for top in [top for top, strip in self._by_top.items() if top + strip.shape[3] <= stop]:
            del self._by_top[top]


class Band(NamedTuple):
    """Rows of a convolution's result, and the bias that is still to be added to them; None where there is none."""

    start: int
    stop: int
    values: Tensor
    bias: Tensor | None = None

    def finished(self) -> Tensor:
        """With the bias, in place."""
        if self.bias is not None:
            self.put(self.values)
        return self.values

    def rows(self, start: int, stop: int) -> Band:
        """Some of its rows, counted as `start` and `stop` are."""
        return Band(start, stop, self.values[:, :, :, start - self.start : stop - self.start], self.bias)

    def put(self, into: Tensor, *, add: bool = False) -> None:
        """Write it where it belongs, or add it to what is there."""
        if self.bias is not None and _channels_last(self.values) and _channels_last(into):
            _kernels().put(self.values, self.bias, into, add=add)
            return
        values = self.values if self.bias is None else self.values + self.bias.view(-1, 1, 1, 1)
        into.add_(values) if add else into.copy_(values)


Convolve = Callable[[Tensor], tuple[Tensor, Tensor | None]]
"""Gives a convolution's result, and the bias that is left to whoever writes it."""


def convolved(layer: Any, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """A convolution's result, and the bias that is left to whoever writes it: where a kernel does, it costs nothing."""
    lends = getattr(layer, "kernel_weights", None)
    weights = lends(x) if lends is not None and uses_triton(x) else None
    if weights is None or not _channels_last(x):
        return layer(x), None
    weight, bias = weights
    convolve = F.conv3d if x.ndim == 5 else F.conv2d
    return convolve(x, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups), bias


class Activated:
    """SiLU of a map times `scale` plus `shift`, which are given for cells of the map: [B, C, t, h, w].

    Cells divide rows and columns evenly, and frames too, but where the first frame stands apart it has its own.
    """

    def __init__(self, values: Strips, scale: Tensor, shift: Tensor) -> None:
        self.values = values
        # In the order of the map, so that they are read along with it.
        self.scale, self.shift = (part.contiguous(memory_format=torch.channels_last_3d) for part in (scale, shift))
        self.shape, self.dtype, self.device = values.shape, values.dtype, values.device

    def write(self, start: int, stop: int, into: Tensor) -> None:
        if uses_triton(into) and _channels_last(into) and all(map(_channels_last, self.values)):
            self._write_by_kernel(start, stop, into)
            return
        for first, view in self.values.views(start, stop):
            self._scale(view, first, into[:, :, :, first - start : first - start + view.shape[3]])
        if not self.values.requires_grad:
            F.silu(into, inplace=True)

    def _write_by_kernel(self, start: int, stop: int, into: Tensor) -> None:
        scale, shift = (part.movedim(1, -1).contiguous() for part in (self.scale, self.shift))
        single = int(self.scale.shape[2] > 1 and first_stands_apart(self.shape[2]))
        for first, view in self.values.views(start, stop):
            place = into[:, :, :, first - start : first - start + view.shape[3]]
            _kernels().activate(view, scale, shift, single, (first, self.shape[3]), place)

    def _scale(self, view: Tensor, first: int, into: Tensor) -> None:
        """Rows from `first` on, times scale plus shift; where gradients are wanted, SiLU of it at once."""
        stop = first + view.shape[3]
        for frames, cells_in_time in _frame_parts(self.shape[2], self.scale.shape[2]):
            for rows, cell_rows in _row_parts(first, stop, self.shape[3] // self.scale.shape[3]):
                cells = self.scale[:, :, cells_in_time, cell_rows], self.shift[:, :, cells_in_time, cell_rows]
                counts = cells[0].shape[2:]
                scale, shift = (part[:, :, :, None, :, None, :, None] for part in cells)
                here = slice(rows.start - first, rows.stop - first)
                values, place = (_by_cells(x[:, :, frames, here], counts) for x in (view, into))
                if view.requires_grad:
                    place.copy_(F.silu(torch.addcmul(shift, values, scale)))
                else:
                    torch.addcmul(shift, values, scale, out=place)


def first_stands_apart(num_frames: int) -> bool:
    """Whether the first frame of a chunk of this length is treated on its own."""
    return num_frames > 1 and num_frames % 2 == 1


def bands(shape: torch.Size, device: torch.device, elements_per_row: float | None = None) -> Iterator[tuple[int, int]]:
    """First and last row, exclusive, of bands that share the rows of a map evenly, for a device that computes them."""
    total = shape[3] * (elements_per_row or math.prod(shape) / shape[3])
    least, most = ON_CPU if device.type == "cpu" else ON_GPU
    size = min(max(total / _SHARE, least), most)
    number = min(shape[3], math.ceil(total / size)) or 1
    edges = {shape[3] * index // number // 2 * 2 for index in range(number)}  # even, so that tiles of two rows fit
    return pairwise(sorted(edges | {shape[3]}))


def empty(shape: Sequence[int], like: Tensor | FeatureMap, device: torch.device | None = None) -> Tensor:
    """A map to be filled, with its channels last, which is how convolutions read; pinned where a GPU's is kept in main
    memory."""
    place = device or like.device
    options: dict[str, Any] = {"pin_memory": True} if like.device.type == "cuda" and place.type == "cpu" else {}
    layout = torch.channels_last_3d
    return torch.empty(tuple(shape), dtype=like.dtype, device=place, memory_format=layout, **options)


def activated(values: Strips, norm: nn.GroupNorm, modulation: Modulation | None = None) -> FeatureMap:
    """Group norm with the statistics of the whole map, times and plus what is given for cells of it, and SiLU."""
    one = next(iter(values)).new_ones(1, 1, 1, 1, 1)
    scale, shift = modulation or (one, one - 1)
    if values.requires_grad:
        return Activated(Strips([norm(values.whole())]), scale, shift)
    mean, variance = (
        part.repeat_interleave(values.shape[1] // norm.num_groups, dim=1)[:, :, None, None, None]
        for part in _moments(values, norm.num_groups)
    )
    weight, bias = (part.to(mean).view(1, -1, 1, 1, 1) for part in (norm.weight, norm.bias))
    factor = weight * (variance + norm.eps).rsqrt()
    return Activated(values, factor * scale, torch.addcmul(shift.float(), bias - mean * factor, scale))


def _moments(values: Strips, groups: int) -> tuple[Tensor, Tensor]:
    """Mean and variance [B, groups] of a map, in float32, out of those of its strips."""
    of_strips = zip(*(_strip_moments(strip, groups) for strip in values), strict=True)
    mean, variance = (torch.stack(strips) for strips in of_strips)
    share = mean.new_tensor([strip.shape[3] / values.shape[3] for strip in values]).view(-1, 1, 1)
    total = (mean * share).sum(dim=0)
    return total, ((variance + (mean - total).square()) * share).sum(dim=0)


def _strip_moments(strip: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Mean and variance [B, groups] of a strip, in float32."""
    in_order = strip.is_contiguous(memory_format=torch.channels_last_3d)
    if uses_triton(strip) and in_order and _are_powers_of_two(strip.shape[1], groups):
        return _kernels().moments(strip, groups)
    of_clips = zip(*map(_channel_moments, strip.float().split(1)), strict=True)
    mean, variance = (torch.stack(clips).unflatten(1, (groups, -1)) for clips in of_clips)
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
    picture is of one colour. Here it adds up a few at a time; neighbours count as channels of their own, so that this
    takes few calls.
    """
    channels, cells = clip.shape[1], clip[0, 0].numel()
    neighbours = math.gcd(cells, max(1, _VALUES_AT_ONCE // channels))
    parts = clip.movedim(1, -1).reshape(-1, neighbours * channels).split(_ADDED_UP)
    of_parts = zip(*(channel_moments(x.T[None, :, :, None]) for x in parts), strict=True)
    mean, variance = (torch.stack(found).view(-1, neighbours, channels) for found in of_parts)
    share = mean.new_tensor([len(part) / cells for part in parts])[:, None, None]
    total = (mean * share).sum(dim=(0, 1))
    return total, ((variance + (mean - total).square()) * share).sum(dim=(0, 1))


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


def _channels_last(values: Tensor) -> bool:
    return values.stride(1) == 1


def _are_powers_of_two(*numbers: int) -> bool:
    return all(number & (number - 1) == 0 for number in numbers)


def _kernels() -> Any:
    from ...kernels import triton_maps as maps

    return maps
