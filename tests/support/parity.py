"""How tests compare our numbers with the reference's.

Parity is the largest difference relative to the largest |reference|; what a number format costs is given in dB.
"""

from __future__ import annotations

from math import log10

from torch import Tensor


def relative_difference(ours: Tensor, reference: Tensor) -> float:
    """max |ours - reference| / max |reference|, in float64."""
    ours, reference = ours.detach().double(), reference.detach().double()
    return float((ours - reference).abs().max() / reference.abs().max())


def snr_db(ours: Tensor, reference: Tensor) -> float:
    """Signal to noise in decibels: 10 log10 of sum reference^2 over sum (ours - reference)^2."""
    ours, reference = ours.detach().double(), reference.detach().double()
    noise = float((ours - reference).square().sum())
    return 10 * log10(float(reference.square().sum()) / noise) if noise else float("inf")


def psnr_db(ours: Tensor, reference: Tensor) -> float:
    """Peak signal to noise in decibels, for values from 0 to 1."""
    noise = float((ours.detach().double() - reference.detach().double()).square().mean())
    return -10 * log10(noise) if noise else float("inf")


def assert_parity(ours: Tensor, reference: Tensor, bound: float, what: str) -> None:
    """Fail unless `ours` has the shape of `reference` and differs by at most `bound`; prints what was measured."""
    assert ours.shape == reference.shape, f"{what}: {tuple(ours.shape)} is not {tuple(reference.shape)}"
    assert reference.isfinite().all(), f"{what}: the reference itself is not finite"
    assert reference.abs().max() > 0, f"{what}: the reference is all zero, which compares nothing"
    measured = relative_difference(ours, reference)
    print(f"parity | {what} | {measured:.2e} of {bound:.0e}")
    assert measured <= bound, f"{what}: differs by {measured:.2e}, allowed {bound:.0e}"
