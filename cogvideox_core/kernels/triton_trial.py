"""A small Triton kernel that shows whether Triton works on a device."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .availability import on_its_device
from .devices import dtype_fault

_ROWS, _COLUMNS, _HELD = 3, 12, 16  # a kernel holds a power of two of columns
_DTYPES = {torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}  # and the error their rounding allows


def check(device: torch.device) -> None:
    """Raises: ArithmeticError if the kernel gives wrong numbers; whatever Triton raises if it does not run."""
    for dtype, bound in _DTYPES.items():
        if dtype_fault(device, dtype):
            continue  # no model computes in it there
        x = torch.linspace(-2, 2, _ROWS * _COLUMNS, device=device, dtype=torch.float32).view(_ROWS, _COLUMNS).to(dtype)
        error = float((_normed_and_swapped(x).float() - _expected(x.float())).abs().max())
        if not error < bound:  # NaN is no less than anything
            raise ArithmeticError(f"a kernel in {dtype} is off by {error:.2g}")


@on_its_device
def _normed_and_swapped(x: Tensor) -> Tensor:
    """[rows, columns]: each row normalized, SiLU of it, and neighbouring columns swapped."""
    out = torch.empty_like(x)
    options: dict[str, Any] = {"HELD": _HELD}
    _trial[(x.shape[0],)](x, out, x.shape[1], **options)
    return out


def _expected(x: Tensor) -> Tensor:
    """The same in PyTorch, [rows, columns] in float32."""
    y = torch.nn.functional.silu(torch.nn.functional.layer_norm(x, x.shape[1:], eps=1e-5))
    return y.unflatten(1, (-1, 2)).flip(2).flatten(1)


@triton.jit
def _trial(x, out, columns, HELD: tl.constexpr):
    row, column = tl.program_id(0).to(tl.int64), tl.arange(0, HELD)
    inside = column < columns
    values = tl.load(x + row * columns + column, mask=inside, other=0.0).to(tl.float32)
    centred = tl.where(inside, values - tl.sum(values, 0) / columns, 0.0)
    normed = centred * tl.rsqrt(tl.sum(centred * centred, 0) / columns + 1e-5)
    even, odd = tl.split(tl.reshape(normed * tl.sigmoid(normed), (HELD // 2, 2)))
    tl.store(out + row * columns + column, tl.reshape(tl.join(odd, even), (HELD,)), mask=inside)
