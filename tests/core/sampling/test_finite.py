"""Latents that are not finite: the error names the damaged weight, or the dtype."""

from __future__ import annotations

import pytest
import torch
from torch.nn import Linear

from cogvideox_core.sampling.finite import check_finite
from tests.support.schedules import SHAPE


def test_latents_that_are_not_finite_name_step_and_dtype() -> None:
    check_finite(torch.zeros(SHAPE), 499, torch.float16)
    with pytest.raises(FloatingPointError, match="timestep 499.*float16.*bfloat16"):
        check_finite(torch.full(SHAPE, float("nan")), 499, torch.float16)


def test_a_damaged_weight_is_named() -> None:
    model = Linear(2, 2)
    with torch.no_grad():
        model.bias[1] = float("inf")
    with pytest.raises(FloatingPointError, match="bias is damaged in its file; download it again"):
        check_finite(torch.full(SHAPE, float("nan")), 499, torch.bfloat16, model)
