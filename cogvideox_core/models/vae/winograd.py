"""3 x 3 x 3 convolutions on a CPU in float32: by oneDNN, where it is worth it with 2.25 times fewer multiplications.

PyTorch asks oneDNN where batch x channels x frames x rows is large, which counts no columns: for a band of few rows,
and for small maps, it would not, and be up to six times slower.

Winograd's F(2 x 2, 3 x 3) (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015) makes 2 x 2
values from 4 x 4 of the input with 16 products where there would be 36. The two directions are frames and rows: in
memory they lie outside of columns and channels, so sums and differences are of whole rows, and each of the 16 products
is a convolution along the columns, which oneDNN does as fast as the processor can. Other numbers are rounded than in a
direct convolution; against float64 the error is of the same size. Sums and differences take time of their own, which
wide layers win back.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...kernels.layers import fits_onednn_conv
from ...kernels.torch_symbols import onednn_conv3d
from .feature_maps import Convolve, convolved, empty

_TAPS = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.0, 0.0, 1.0]])
"""What the weights of a direction become: 3 -> 4."""
_FRAMES, _ROWS = 2, 3  # dimensions
_WIDE = 40.0  # c c' / (c + c'): at widths of 64 and 64 both ways took the same time, at 128 this one two thirds
_LARGE = 2048  # cells of a map: in smaller ones it takes longer to transform the weights than it saves


def fast_convolution(layer: Any, x: Tensor, cells: int) -> Convolve:
    """What convolves padded maps like x [B, C, T + 2, H + 2, W] as the layer does, in the fastest way here.

    The layer pads rows on their left and right by itself. `cells`: T H W of the whole map, of which x may be a band.
    """
    lends = getattr(layer, "kernel_weights", None)
    weights = lends(x) if lends is not None and fits_onednn_conv(x) else None
    if weights is None:
        return partial(convolved, layer)
    weight, bias = weights
    out_channels, channels = weight.shape[:2]
    if is_worth_it(x, out_channels, channels, cells):
        return partial(_convolved, weight, bias, _transformed(weight))
    return lambda x: (_by_onednn(x, weight, bias), None)


def is_worth_it(x: Any, out_channels: int, channels: int, cells: int) -> bool:
    """Whether a convolution of x, of which only dtype and device are asked, is faster in this way."""
    wide = channels * out_channels > _WIDE * (channels + out_channels)
    return x.device.type == "cpu" and x.dtype == torch.float32 and wide and cells > _LARGE


def working_bytes(out_channels: int, channels: int, frames: int, rows: int, columns: int) -> int:
    """Bytes that making so many frames and rows takes beside its input and its result."""
    weights = 16 * 3 * out_channels * channels
    by_frame, products = channels * frames * (rows + 2) * columns, frames * rows * columns // 4
    return (weights + by_frame // 2 + products * (channels + 5 * out_channels)) * torch.float32.itemsize


def _transformed(weight: Tensor) -> Tensor:
    """[C', C, 3, 3, 3] -> [4, 4, C', C, 1, 1, 3]."""
    out_channels, channels = weight.shape[:2]
    taps = weight.permute(_FRAMES, _ROWS, 0, 1, 4).reshape(9, -1)
    return (torch.kron(_TAPS, _TAPS) @ taps).view(4, 4, out_channels, channels, 1, 1, 3)


def _convolved(weight: Tensor, bias: Tensor, transformed: Tensor, x: Tensor) -> tuple[Tensor, None]:
    """x: [B, C, T + 2, H + 2, W]. Returns: [B, C', T, H, W] with the bias in it."""
    frames, rows = x.shape[_FRAMES] - 2, x.shape[_ROWS] - 2
    out = empty((len(x), len(bias), frames, rows, x.shape[4]), x)
    even_frames, even_rows = frames // 2 * 2, rows // 2 * 2
    if even_frames and even_rows:
        tiled = out[:, :, :even_frames, :even_rows]
        _add_up(_products(x[:, :, : even_frames + 2, : even_rows + 2], transformed), tiled, _FRAMES)
        tiled += bias.view(-1, 1, 1, 1)
    if frames % 2:  # half a tile is left over
        out[:, :, even_frames:] = _by_onednn(x[:, :, even_frames:], weight, bias)
    if rows % 2 and even_frames:
        out[:, :, :even_frames, even_rows:] = _by_onednn(x[:, :, : even_frames + 2, even_rows:], weight, bias)
    return out, None


def _products(x: Tensor, weights: Tensor) -> Iterator[Tensor]:
    """The four [B, C', T / 2, H, W] that make frames."""
    for by_frame, weight in zip(_differences(x, _FRAMES), weights, strict=True):
        batch, _, frames, rows, columns = by_frame.shape
        out = empty((batch, weight.shape[1], frames, rows - 2, columns), x)
        products = (_by_onednn(part, taps) for part, taps in zip(_differences(by_frame, _ROWS), weight, strict=True))
        _add_up(products, out, _ROWS)
        yield out


def _by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Padded by a column on each side."""
    return onednn_conv3d(x, weight, bias)


def _differences(x: Tensor, dim: int) -> Iterator[Tensor]:
    """Of tiles of 4 places of `dim`, which begin at every second place: what the four products are of."""
    count = (x.shape[dim] - 2) // 2
    first, second, third, fourth = (x.narrow(dim, start, 2 * count - 1)[_every_second(dim)] for start in range(4))
    yield first - third
    yield second + third
    yield third - second
    yield second - fourth


def _add_up(products: Iterator[Tensor], out: Tensor, dim: int) -> None:
    """The two places of `dim` that each tile of the result has, out of its four products."""
    even, odd = out[_every_second(dim)], out.narrow(dim, 1, out.shape[dim] - 1)[_every_second(dim)]
    first, second = next(products), next(products)
    torch.add(first, second, out=even)
    del first
    third = next(products)
    even += third
    torch.sub(second, third, out=odd)
    del second, third
    odd -= next(products)


def _every_second(dim: int) -> tuple[slice, ...]:
    return (*[slice(None)] * dim, slice(None, None, 2))
