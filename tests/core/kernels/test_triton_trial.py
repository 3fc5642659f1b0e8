"""The trial of Triton passes where it works, and notices wrong numbers in any dtype."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture
def trial() -> ModuleType:
    pytest.importorskip("triton", reason="no Triton for this system")
    from cogvideox_core.kernels import triton_trial

    return triton_trial


def test_it_passes_in_every_dtype(trial: ModuleType) -> None:
    trial.check(DEVICE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("wrong", [0.5, float("nan")])
def test_wrong_numbers_in_one_dtype_are_noticed(
    trial: ModuleType, dtype: torch.dtype, wrong: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = trial._normed_and_swapped

    def spoiled(x: Tensor) -> Tensor:
        out = right(x)
        out[0, 0] += wrong if x.dtype == dtype else 0
        return out

    monkeypatch.setattr(trial, "_normed_and_swapped", spoiled)
    with pytest.raises(ArithmeticError, match=f"a kernel in {dtype} is off by"):
        trial.check(DEVICE)


def test_bfloat16_is_not_tried_where_no_model_computes_in_it(
    trial: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Triton has no bfloat16 on a T4, whose other kernels run."""
    right, tried = trial._normed_and_swapped, []

    def noted(x: Tensor) -> Tensor:
        tried.append(x.dtype)
        return right(x)

    monkeypatch.setattr(trial, "_normed_and_swapped", noted)
    monkeypatch.setattr(trial, "dtype_fault", lambda device, dtype: "old" if dtype == torch.bfloat16 else None)
    trial.check(DEVICE)
    assert tried == [torch.float32, torch.float16]
