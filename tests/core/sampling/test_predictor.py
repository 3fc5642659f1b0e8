"""The transformer as a predictor: guidance, batches or halves, tables of modulation, what the backend gets wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cogvideox_core import CogVideoXTransformer3D, NoiseSchedule, load_transformer
from cogvideox_core.models.transformer.attention import Attention, sdpa
from cogvideox_core.sampling.guidance import Guidance
from cogvideox_core.sampling.noise_schedule import Step, predict_x0
from cogvideox_core.sampling.predictor import TABULATED_STEPS, Conditions, TransformerPredictor
from tests.support.parity import assert_parity
from tests.support.schedules import seeded

LATENTS = torch.randn(1, 16, 2, 8, 12, generator=seeded(1))
PROMPT, NEGATIVE = (torch.randn(1, 226, 32, generator=seeded(seed)) for seed in (2, 3))


@pytest.fixture(scope="module")
def transformer(checkpoint: Callable[..., Path]) -> CogVideoXTransformer3D:
    return load_transformer(checkpoint("CogVideoX-5B"), dtype=torch.float32)


@pytest.fixture(scope="module")
def steps(transformer: CogVideoXTransformer3D) -> list[Step]:
    assert transformer.variant is not None
    return NoiseSchedule(transformer.variant.schedule).steps(4)


@torch.no_grad()
def direct(transformer: CogVideoXTransformer3D, embeds: Tensor, step: Step) -> Tensor:
    """x0 by a plain forward."""
    v_pred = transformer(LATENTS, embeds, torch.tensor([step.timestep]))
    return predict_x0(LATENTS, v_pred, step.alpha)


@torch.no_grad()
def predicted(predictor: TransformerPredictor, step: Step) -> Tensor:
    """x0 at the first step."""
    with predictor:
        return predictor(LATENTS, step, 0)


@pytest.mark.parametrize("split", [False, True], ids=["one batch", "two halves"])
def test_guidance_acts_on_clean_latents(transformer: CogVideoXTransformer3D, steps: list[Step], split: bool) -> None:
    conditions = Conditions(PROMPT, NEGATIVE, Guidance(6.0))
    x0 = predicted(TransformerPredictor(transformer, steps, conditions, split=split), steps[0])
    cond, uncond = (direct(transformer, embeds, steps[0]) for embeds in (PROMPT, NEGATIVE))
    assert_parity(x0, uncond + 6.0 * (cond - uncond), 1e-5, f"guided x0, {split=}")


def test_without_guidance_the_negative_prompt_is_not_needed(
    transformer: CogVideoXTransformer3D, steps: list[Step]
) -> None:
    x0 = predicted(TransformerPredictor(transformer, steps, Conditions(PROMPT, guidance=Guidance(1.0))), steps[0])
    assert_parity(x0, direct(transformer, PROMPT, steps[0]), 1e-5, "x0 without guidance")


def test_tables_are_renewed_where_a_run_is_longer_than_one(transformer: CogVideoXTransformer3D) -> None:
    assert transformer.variant is not None
    steps = NoiseSchedule(transformer.variant.schedule).steps(TABULATED_STEPS + 2)
    conditions = Conditions(PROMPT, guidance=Guidance(1.0))
    with TransformerPredictor(transformer, steps, conditions) as predictor, torch.no_grad():
        predictor(LATENTS, steps[0], 0)
        x0 = predictor(LATENTS, steps[TABULATED_STEPS], TABULATED_STEPS)
    assert transformer.tabulated_timesteps is None, "the transformer is as it was"
    assert_parity(x0, direct(transformer, PROMPT, steps[TABULATED_STEPS]), 1e-5, "x0 of the second table")


def test_a_backend_with_wrong_numbers_is_replaced_and_the_step_computed_again(
    transformer: CogVideoXTransformer3D, steps: list[Step], caplog: pytest.LogCaptureFixture
) -> None:
    def broken(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return sdpa(q, k, v) * float("nan")

    attention = Attention("broken", broken)
    conditions = Conditions(PROMPT, guidance=Guidance(1.0))
    x0 = predicted(TransformerPredictor(transformer, steps, conditions, attention=attention), steps[0])
    assert_parity(x0, direct(transformer, PROMPT, steps[0]), 1e-5, "x0 by the other backend")
    assert attention.function is sdpa and "broken gives numbers that are not finite" in caplog.text


def test_a_step_that_is_not_finite_ends_the_run_and_leaves_the_transformer_whole(
    transformer: CogVideoXTransformer3D, steps: list[Step]
) -> None:
    conditions = Conditions(PROMPT * float("inf"), guidance=Guidance(1.0))
    with pytest.raises(FloatingPointError, match="at timestep 999"):
        predicted(TransformerPredictor(transformer, steps, conditions), steps[0])
    assert transformer.tabulated_timesteps is None


def test_the_dynamic_scale_follows_the_steps(transformer: CogVideoXTransformer3D, steps: list[Step]) -> None:
    guidance = Guidance(6.0, dynamic=True, dynamic_by="step")
    conditions = Conditions(PROMPT, NEGATIVE, guidance)
    last = steps[-1]
    with TransformerPredictor(transformer, steps, conditions) as predictor, torch.no_grad():
        predictor(LATENTS, steps[0], 0)
        x0 = predictor(LATENTS, last, len(steps) - 1)
    cond, uncond = (direct(transformer, embeds, last) for embeds in (PROMPT, NEGATIVE))
    scale = guidance.at(last.timestep, len(steps) - 1, len(steps))
    assert_parity(x0, uncond + scale * (cond - uncond), 1e-5, "dynamically guided x0")
