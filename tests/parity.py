"""How tests compare our numbers with the reference's: the largest difference, relative to the largest |reference|."""

from __future__ import annotations

from torch import Tensor


def relative_difference(ours: Tensor, reference: Tensor) -> float:
    """max |ours - reference| / max |reference|, in float64."""
    ours, reference = ours.detach().double(), reference.detach().double()
    return float((ours - reference).abs().max() / reference.abs().max())


def assert_parity(ours: Tensor, reference: Tensor, bound: float, what: str) -> None:
    """Fail unless `ours` has the shape of `reference` and differs by at most `bound`; prints what was measured."""
    assert ours.shape == reference.shape, f"{what}: {tuple(ours.shape)} is not {tuple(reference.shape)}"
    assert reference.isfinite().all(), f"{what}: the reference itself is not finite"
    assert reference.abs().max() > 0, f"{what}: the reference is all zero, which compares nothing"
    measured = relative_difference(ours, reference)
    print(f"parity | {what} | {measured:.2e} of {bound:.0e}")
    assert measured <= bound, f"{what}: differs by {measured:.2e}, allowed {bound:.0e}"
