"""The denoising loop with a predictor of the test's own: what is asked, in which order, and what comes out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cogvideox_core.sampling.loop import denoise
from cogvideox_core.sampling.noise_schedule import Step
from cogvideox_core.sampling.samplers import make_sampler
from tests.support.schedules import SHAPE, ours, seeded

CLEAN = torch.randn(SHAPE, generator=seeded(2))


def knows_the_answer(latents: Tensor, step: Step, index: int) -> Tensor:
    """A perfect model: x0 is what the video is."""
    return CLEAN


@pytest.mark.parametrize("name", ["ddim", "dpm"])
def test_a_perfect_predictor_ends_at_the_clean_latents(name: str) -> None:
    sampler = make_sampler(name, torch.randn_like)
    end = denoise(knows_the_answer, torch.randn(SHAPE), ours(1.0).steps(20), sampler)
    assert torch.allclose(end, CLEAN, atol=1e-5)


def test_each_step_is_asked_and_reported_once_in_order() -> None:
    steps, asked, reported = ours(1.0).steps(4), [], []

    def predict(latents: Tensor, step: Step, index: int) -> Tensor:
        asked.append((step, index))
        return CLEAN

    def on_step(index: int, x0: Tensor, latents: Tensor) -> None:
        reported.append((index, x0 is CLEAN, latents))

    end = denoise(predict, torch.randn(SHAPE), steps, make_sampler("ddim", torch.randn_like), on_step)
    assert asked == [(step, index) for index, step in enumerate(steps)]
    assert [(index, same) for index, same, _ in reported] == [(0, True), (1, True), (2, True), (3, True)]
    assert reported[-1][2] is end


def test_the_callback_can_end_a_run() -> None:
    def stop(index: int, x0: Tensor, latents: Tensor) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        denoise(knows_the_answer, CLEAN, ours(1.0).steps(4), make_sampler("ddim", torch.randn_like), stop)
