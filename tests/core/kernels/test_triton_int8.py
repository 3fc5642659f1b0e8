"""The Triton kernels for 8-bit integers give the numbers of PyTorch; on a GPU, or in Triton's interpreter."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from cogvideox_core.kernels import int8
from cogvideox_core.weights.packed_weight import quantize
from tests.support.parity import assert_parity

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="module")
def kernels() -> ModuleType:
    pytest.importorskip("triton", reason="no Triton for this system")
    from cogvideox_core.kernels import triton_int8

    return triton_int8


@pytest.mark.parametrize("gelu", [True, False])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize(
    ("rows", "inner", "columns", "dtype", "bound"),
    [(150, 96, 264, torch.float32, 1e-6), (33, 200, 64, torch.bfloat16, 1e-2)],
)
def test_products(
    kernels: ModuleType,
    rows: int,
    inner: int,
    columns: int,
    dtype: torch.dtype,
    bound: float,
    with_bias: bool,
    gelu: bool,
) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, inner, generator=generator).to(dtype)
    x[3] = 0
    weight = quantize(torch.randn(columns, inner, generator=generator), "int8").stored
    bias = torch.randn(columns, generator=generator).to(dtype) if with_bias else None
    arguments = (x, weight["data"], weight["scale"], bias)
    wanted = int8.int8_linear(*arguments, gelu=gelu)
    there = [part if part is None else part.to(DEVICE) for part in arguments]
    found = kernels.int8_linear(*there, gelu=gelu)
    assert found.dtype == dtype
    assert_parity(found.cpu().float(), wanted.float(), bound, f"{rows} rows, bias {with_bias}, gelu {gelu}")


def test_rounding_keeps_what_is_not_finite(kernels: ModuleType) -> None:
    x = torch.ones(20, 16, device=DEVICE)
    x[4, 2], x[5, 1] = float("nan"), float("inf")
    numbers, scale = kernels.round_rows(x)
    assert scale.isfinite().flatten().tolist() == [row not in (4, 5) for row in range(20)]
    assert (numbers[0] == 127).all()
