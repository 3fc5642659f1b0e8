"""3 x 3 x 3 convolutions on a CPU in float32 with 2.25 times fewer multiplications.

Winograd's F(2 x 2, 3 x 3) (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015) makes 2 x 2
values from 4 x 4 of the input with 16 products where there would be 36. The two directions are frames and rows: in
memory they lie outside of columns and channels, so sums and differences are of whole rows, and each of the 16 products
is a convolution along the columns, which oneDNN does as fast as the processor can. Other numbers are rounded than in a
direct convolution; against float64 the error is of the same size. Sums and differences take time of their own, which
wide layers win back.

Along one direction, with inputs d0 to d3 and taps g0 to g2, the two results are

    y0 = d0 g0 + d1 g1 + d2 g2 = m0 + m1 + m2        m0 = (d0 - d2) g0           m1 = (d1 + d2) (g0 + g1 + g2) / 2
    y1 = d1 g0 + d2 g1 + d3 g2 = m1 - m2 - m3        m3 = (d1 - d3) g2           m2 = (d2 - d1) (g0 - g1 + g2) / 2

with four products in place of six. `_TAPS` makes the factors of the weights, `_differences` those of the input, and
`_add_up` the results. For two directions each product along frames is itself computed in this way along rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from ...kernels.choices import Ways, fastest
from ...kernels.torch_symbols import onednn_conv3d
from .bands import Sized, empty

_TAPS = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.0, 0.0, 1.0]])
"""Three taps of a direction to the four factors that its products take."""
_FRAMES, _ROWS = 2, 3  # dimensions
_WIDE = 40.0  # c c' / (c + c'): at widths of 64 and 64 both ways took the same time, at 128 this one two thirds
_EXAMPLE = 4, 18, 48  # frames and rows with their padding, and columns
_LARGE = 2048  # cells of a map: in smaller ones it takes longer to transform the weights than it saves


def is_worth_it(x: Sized, out_channels: int, channels: int, cells: int) -> bool:
    """Whether a convolution of x [...] is faster in this way; of x only dtype and device count. Of wide layers it is
    measured, as on shared cores the many sums cost more than the products save.

    Args: cells: T * H * W of the map that x is a band of.
    """
    wide = channels * out_channels > _WIDE * (channels + out_channels)
    if not (x.device.type == "cpu" and x.dtype == torch.float32 and wide and cells > _LARGE):
        return False
    operation = f"convolutions of {channels} to {out_channels} channels"
    return fastest(operation, partial(_ways, out_channels, channels), "winograd") == "winograd"


def _ways(out_channels: int, channels: int) -> Ways:
    """This algorithm and the direct one, on a small map."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, channels, *_EXAMPLE, generator=generator).to(memory_format=torch.channels_last_3d)
    weight, bias = torch.randn(out_channels, channels, 3, 3, 3, generator=generator), torch.zeros(out_channels)
    transformed = transformed_weight(weight)
    return {
        "winograd": partial(winograd_conv, x, weight, bias, transformed),
        "direct": partial(onednn_conv3d, x, weight, bias),
    }


def working_bytes(out_channels: int, channels: int, frames: int, rows: int, columns: int) -> int:
    """Bytes that `winograd_conv` allocates for so many frames and rows of a result, apart from input and result.

    They are the transformed weights, a difference by frames [C, T / 2, H + 2, W], and of the products and sums that are
    there at once C + 5 C' maps of a quarter of the cells.
    """
    weights = 16 * 3 * out_channels * channels
    by_frame, products = channels * frames * (rows + 2) * columns, frames * rows * columns // 4
    return (weights + by_frame // 2 + products * (channels + 5 * out_channels)) * torch.float32.itemsize


def transformed_weight(weight: Tensor) -> Tensor:
    """The factors of a weight [C_out, C_in, 3, 3, 3] -> [4, 4, C_out, C_in, 1, 1, 3], by frames and by rows."""
    out_channels, channels = weight.shape[:2]
    taps = weight.permute(_FRAMES, _ROWS, 0, 1, 4).reshape(9, -1)  # [3 * 3, C' * C * 3]
    return (torch.kron(_TAPS, _TAPS) @ taps).view(4, 4, out_channels, channels, 1, 1, 3)


def winograd_conv(x: Tensor, weight: Tensor, bias: Tensor, transformed: Tensor) -> Tensor:
    """The convolution of a map that is padded in time and rows; columns are padded by one on each side here.

    Args:
        x: [B, C, T + 2, H + 2, W].
        weight, bias: [C', C, 3, 3, 3] and [C'].
        transformed: `transformed_weight(weight)`.
    Returns: [B, C', T, H, W] with the bias in it.
    """
    frames, rows = x.shape[_FRAMES] - 2, x.shape[_ROWS] - 2
    out = empty((len(x), len(bias), frames, rows, x.shape[4]), x)
    even_frames, even_rows = frames // 2 * 2, rows // 2 * 2
    if even_frames and even_rows:
        tiled = out[:, :, :even_frames, :even_rows]
        _add_up(_products(x[:, :, : even_frames + 2, : even_rows + 2], transformed), tiled, _FRAMES)
        tiled += bias.view(-1, 1, 1, 1)
    if frames % 2:  # half a tile is left over
        out[:, :, even_frames:] = onednn_conv3d(x[:, :, even_frames:], weight, bias)
    if rows % 2 and even_frames:
        out[:, :, :even_frames, even_rows:] = onednn_conv3d(x[:, :, : even_frames + 2, even_rows:], weight, bias)
    return out


def _products(x: Tensor, weights: Tensor) -> Iterator[Tensor]:
    """The four products by frames, [B, C', T / 2, H, W] each, made as they are taken."""
    for by_frame, weight in zip(_differences(x, _FRAMES), weights, strict=True):
        batch, _, frames, rows, columns = by_frame.shape
        out = empty((batch, weight.shape[1], frames, rows - 2, columns), x)
        products = (
            onednn_conv3d(part, taps, None) for part, taps in zip(_differences(by_frame, _ROWS), weight, strict=True)
        )
        _add_up(products, out, _ROWS)
        yield out


def _differences(x: Tensor, dim: int) -> Iterator[Tensor]:
    """The input's factors of the four products along `dim`: d0 - d2, d1 + d2, d2 - d1, d1 - d3.

    Tiles of 4 begin at every second position, so each neighbour is a slice of x with step 2, half as long as x.
    """
    count = (x.shape[dim] - 2) // 2
    first, second, third, fourth = (x.narrow(dim, start, 2 * count - 1)[_every_second(dim)] for start in range(4))
    yield first - third
    yield second + third
    yield third - second
    yield second - fourth


def _add_up(products: Iterator[Tensor], out: Tensor, dim: int) -> None:
    """Even and odd positions of `out` along `dim`: m0 + m1 + m2 and m1 - m2 - m3; few products are there at once."""
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
