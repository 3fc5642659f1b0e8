"""3 x 3 x 3 convolutions on a CPU with 2.25 times fewer multiplications, in float32.

Winograd's F(2 x 2, 3 x 3) (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015) makes 2 x 2
values of a picture from 4 x 4 of its input with 16 products where there would be 36; frames are added up as they are in
a direct convolution. Sums and differences stand before and after the products, so other numbers are rounded; the
error against float64 is of the same size. They take time of their own, which wide layers win back.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .feature_maps import Convolve, convolved

# What the weights of a row, and of a column, become: 3 -> 4.
_TAPS = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.0, 0.0, 1.0]])
_PRODUCTS = 16  # for a tile of 2 x 2 values
_TIMES = 3  # frames that a value is made of
_WORTH = 37.0  # at widths of 64 and 64 both ways took the same time, at 128 this one two thirds
_BLOCK = 1 << 20  # about how many values of products are at hand at once: 4 MB
_ROWS = 384  # of a matrix, at least, if there are as many


def fast_convolution(layer: Any, x: Tensor) -> Convolve:
    """What convolves padded maps like x [B, C, T + 2, H + 2, W] as the layer does, in the fastest way here.

    The layer pads rows on their left and right by itself; `convolved` is the way where this one does not fit.
    """
    lends = getattr(layer, "weights_for", None)
    weights = lends(x) if lends is not None and is_worth_it(x, *layer.weight.shape[:2]) else None
    if weights is None:
        return partial(convolved, layer)
    weight, bias = weights
    return partial(_convolved, _transformed(weight), bias)


def is_worth_it(x: Any, out_channels: int, channels: int) -> bool:
    """Whether a convolution of x, of which only dtype and device are asked, is faster in this way."""
    widths = channels * out_channels / (channels + out_channels)
    return x.device.type == "cpu" and x.dtype == torch.float32 and widths > _WORTH


def weight_bytes(out_channels: int, channels: int) -> int:
    """Bytes of transformed weights."""
    return _TIMES * _PRODUCTS * out_channels * channels * torch.float32.itemsize


def block_bytes(out_channels: int, channels: int, frames: int, height: int, width: int) -> int:
    """Bytes that are at hand while a block of a result of this size is made; `frames`, `height`: of the result."""
    rows, columns = next(_blocks(frames, height, width, channels))
    down, across = math.ceil(len(rows) / 2), math.ceil(len(columns) / 2)
    read = (frames + 2) * (2 * down + 2) * (2 * across + 2) * channels
    by_row = 4 * (frames + 2) * down * (2 * across + 2) * channels
    spread = _PRODUCTS * (frames + 2) * down * across * channels
    products = _PRODUCTS * frames * down * across * out_channels
    return (read + spread + max(by_row, 2 * products)) * torch.float32.itemsize


def _transformed(weight: Tensor) -> Tensor:
    """[C', C, 3, 3, 3] -> [3, 16, C, C'], as a view."""
    taps = torch.kron(_TAPS, _TAPS)
    by_time = torch.block_diag(*[taps] * _TIMES)
    return (by_time @ weight.flatten(2).flatten(0, 1).t()).view(_TIMES, _PRODUCTS, *weight.shape[:2]).mT


def _convolved(weight: Tensor, bias: Tensor, x: Tensor) -> tuple[Tensor, None]:
    """x: [B, C, T + 2, H + 2, W]. Returns: [B, C', T, H, W] with the bias in it."""
    batch, _, frames, height, width = x.shape
    shape = batch, weight.shape[-1], frames - 2, height - 2, width
    out = torch.empty(shape, memory_format=torch.channels_last_3d)
    for clip, into in zip(x, out, strict=True):
        _convolve_clip(clip.permute(1, 2, 3, 0), weight, bias, into.permute(1, 2, 3, 0))
    return out, None


def _convolve_clip(x: Tensor, weight: Tensor, bias: Tensor, out: Tensor) -> None:
    """x: [T + 2, H + 2, W, C], out: [T, H, W, C']; block by block, so that what lies between stays in the caches."""
    frames, height, width, _ = out.shape
    for rows, columns in _blocks(frames, height, width, x.shape[-1]):
        tiles = math.ceil(len(rows) / 2), math.ceil(len(columns) / 2)
        first, last = columns.start - 1, columns.start + 2 * tiles[1] + 1
        below = rows.start + 2 * tiles[0] + 2 - x.shape[1]
        part = x[:, rows.start : rows.start + 2 * tiles[0] + 2, max(first, 0) : last]
        around = (max(-first, 0), max(last - width, 0), 0, max(below, 0))
        if any(around):
            part = F.pad(part, (0, 0, *around))
        products = _products(_spread(part, tiles), weight)
        place = out[:, rows.start : rows.stop, columns.start : columns.stop]
        if place.shape[1] % 2 or place.shape[2] % 2:  # the last tile is half a tile
            whole = out.new_empty(frames, 2 * tiles[0], 2 * tiles[1], out.shape[-1])
            _gather(products, bias, whole)
            place.copy_(whole[:, : place.shape[1], : place.shape[2]])
        else:
            _gather(products, bias, place)


def _blocks(frames: int, height: int, width: int, channels: int) -> Iterator[tuple[range, range]]:
    """Rows and columns of blocks of whole tiles."""
    across = math.ceil(width / 2)
    tiles = max(_BLOCK // (_PRODUCTS * (frames + 2) * channels), _ROWS // frames, 1)
    columns, rows = 2 * min(tiles, across), 2 * max(1, tiles // across)
    for top in range(0, height, rows):
        for left in range(0, width, columns):
            yield range(top, min(top + rows, height)), range(left, min(left + columns, width))


def _spread(x: Tensor, tiles: tuple[int, int]) -> Tensor:
    """[T, 2 h + 2, 2 w + 2, C] -> [4, 4, T, h, w, C], sums and differences in rows and columns, for (h, w) tiles."""
    frames, _, wide, channels = x.shape
    by_row = x.new_empty(4, frames, tiles[0], wide, channels)
    _differences(x, by_row, dim=1)
    out = x.new_empty(4, 4, frames, *tiles, channels)
    _differences(by_row, out.transpose(0, 1), dim=3)
    return out


def _differences(x: Tensor, out: Tensor, dim: int) -> None:
    """Of tiles of 4 places of `dim`, which begin at every second place."""
    count = (x.shape[dim] - 2) // 2
    first, second, third, fourth = (x.narrow(dim, start, 2 * count - 1)[_every_second(dim)] for start in range(4))
    torch.sub(first, third, out=out[0])
    torch.add(second, third, out=out[1])
    torch.sub(third, second, out=out[2])
    torch.sub(second, fourth, out=out[3])


def _every_second(dim: int) -> tuple[slice, ...]:
    return (*[slice(None)] * dim, slice(None, None, 2))


def _products(x: Tensor, weight: Tensor) -> Tensor:
    """[4, 4, T + 2, h, w, C] times [3, 16, C, C'] -> [4, 4, T, h, w, C'], summed over each three frames."""
    frames, *tiles = x.shape[2:5]
    size = math.prod(tiles)
    rows = x.view(_PRODUCTS, frames * size, -1)
    past, *others = (rows[:, start * size : (start + frames - 2) * size] for start in range(_TIMES))
    out = torch.bmm(past, weight[0])
    for part, taps in zip(others, weight[1:], strict=True):
        out.baddbmm_(part, taps)
    return out.view(4, 4, frames - 2, *tiles, -1)


def _gather(products: Tensor, bias: Tensor, out: Tensor) -> None:
    """[4, 4, T, h, w, C'] -> [T, 2 h, 2 w, C']."""
    products[1, 1] += bias  # which all four values of a tile have in them once
    rows = products.new_empty(2, *products.shape[1:])
    _sums(products, rows)
    height, width = products.shape[3:5]
    tiles = out.unflatten(2, (width, 2)).unflatten(1, (height, 2))  # [T, h, 2, w, 2, C']
    _sums(rows.transpose(0, 1), tiles.permute(4, 2, 0, 1, 3, 5))


def _sums(x: Tensor, out: Tensor) -> None:
    torch.add(x[0], x[1], out=out[0]).add_(x[2])
    torch.sub(x[1], x[2], out=out[1]).sub_(x[3])
