"""Kernels are for inference: what a backward pass goes through is left to PyTorch."""

from __future__ import annotations

import torch

from cogvideox_core.kernels.gradients import needs_gradients


def test_gradients_are_needed_of_any_tensor_that_asks_for_them() -> None:
    plain, asking = torch.ones(2), torch.ones(2, requires_grad=True)
    assert needs_gradients(plain, asking) and needs_gradients(asking * 2)
    assert not needs_gradients(plain) and not needs_gradients()
    with torch.no_grad():
        assert not needs_gradients(asking)
    with torch.inference_mode():
        assert not needs_gradients(asking)
