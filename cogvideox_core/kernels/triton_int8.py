"""The products of int8.py as two Triton kernels: round the rows, then multiply and scale.

PyTorch's own operations would write each step between them to memory, which costs more time than multiplying in 8 bits
saves.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .availability import on_its_device

_LAUNCH: dict[str, Any] = {"num_warps": 8}
_LEAST = tl.constexpr(1e-30)
_MAGIC = tl.constexpr(12582912.0)  # 1.5 * 2^23: added and taken away again, it rounds a float32 to a whole number


@on_its_device
def int8_linear(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, *, gelu: bool = False) -> Tensor:
    """A linear layer of x [M, K] -> [M, N]; arguments as for `int8.int8_linear`."""
    numbers, by_row = round_rows(x)
    rows, inner = numbers.shape
    columns = len(weight)
    out = torch.empty(rows, columns, device=x.device, dtype=x.dtype)
    large = x.device.type == "cuda" and torch.cuda.get_device_capability(x.device) >= (9, 0)
    tile: dict[str, Any] = dict(ROWS=128, COLUMNS=256, INNER=128) if large else dict(ROWS=128, COLUMNS=128, INNER=64)
    grid = (triton.cdiv(rows, tile["ROWS"]) * triton.cdiv(columns, tile["COLUMNS"]),)
    options: dict[str, Any] = {
        "HAS_BIAS": bias is not None,
        "GELU": gelu,
        "GROUP": 8,
        **tile,
        **_LAUNCH,
        "num_stages": 3,
    }
    _multiply[grid](
        numbers,
        weight,
        by_row,
        scale.contiguous(),
        x if bias is None else bias,
        out,
        rows,
        columns,
        inner,
        **options,
    )
    return out


@on_its_device
def round_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [M, K] as int8 [M, K], and the scale of each row [M, 1] in float32."""
    x = x.contiguous()
    rows, columns = x.shape
    numbers = torch.empty(rows, columns, device=x.device, dtype=torch.int8)
    scale = torch.empty(rows, 1, device=x.device, dtype=torch.float32)
    _round[(rows,)](x, numbers, scale, columns, BLOCK=triton.next_power_of_2(columns), **_LAUNCH)
    return numbers, scale


@triton.jit
def _round(x, numbers, scale, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < columns
    values = tl.load(x + row * columns + at, mask=inside, other=0.0).to(tl.float32)
    largest = tl.maximum(tl.max(tl.abs(values), 0), _LEAST)
    unit = tl.div_rn(largest, 127.0)
    rounded = (tl.div_rn(values, unit) + _MAGIC) - _MAGIC
    tl.store(numbers + row * columns + at, rounded.to(tl.int8), mask=inside)
    # A row with something that is not finite becomes so as a whole; `max` alone passes over NaN.
    tl.store(scale + row, unit + tl.sum(values * 0.0, 0))


@triton.jit
def _multiply(
    x,
    weight,
    by_row,
    by_column,
    bias,
    out,
    rows,
    columns,
    inner,
    HAS_BIAS: tl.constexpr,
    GELU: tl.constexpr,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INNER: tl.constexpr,
):
    # Programs run about in the order of their ids. Tiles are numbered down a group of GROUP rows of tiles, then across,
    # so that those that run at the same time read the same rows of x and of the weight, from the cache.
    tile = tl.program_id(0)
    across = tl.cdiv(columns, COLUMNS)
    group = tile // (GROUP * across)
    first = group * GROUP
    height = tl.minimum(tl.cdiv(rows, ROWS) - first, GROUP)
    row = first + (tile % (GROUP * across)) % height
    column = (tile % (GROUP * across)) // height

    at_row = row * ROWS + tl.arange(0, ROWS)
    at_column = column * COLUMNS + tl.arange(0, COLUMNS)
    at_inner = tl.arange(0, INNER)
    # Rows and columns outside of the matrices read others in their place (the remainder), and are not stored.
    x_at = x + (at_row % rows).to(tl.int64)[:, None] * inner + at_inner[None, :]
    weight_at = weight + (at_column % columns).to(tl.int64)[None, :] * inner + at_inner[:, None]
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.int32)
    for start in range(0, inner, INNER):
        inside = at_inner < inner - start
        a = tl.load(x_at + start, mask=inside[None, :], other=0)
        b = tl.load(weight_at + start, mask=inside[:, None], other=0)
        total = tl.dot(a, b, total, out_dtype=tl.int32)

    of_row = tl.load(by_row + at_row, mask=at_row < rows, other=0.0)
    of_column = tl.load(by_column + at_column, mask=at_column < columns, other=0.0)
    y = total.to(tl.float32) * of_row[:, None] * of_column[None, :]
    if HAS_BIAS:
        y += tl.load(bias + at_column, mask=at_column < columns, other=0.0).to(tl.float32)[None, :]
    if GELU:  # tanh form: 0.5 y (1 + tanh(sqrt(2 / pi) (y + 0.044715 y^3))) = y sigmoid(2 sqrt(2 / pi) (y + ...))
        y = y * tl.sigmoid(1.5957691216057308 * (y + 0.044715 * y * y * y))
    at_out = out + at_row.to(tl.int64)[:, None] * columns + at_column[None, :]
    tl.store(at_out, y.to(out.dtype.element_ty), mask=(at_row < rows)[:, None] & (at_column < columns)[None, :])
