"""The cache of steps: lines through x0, how far they are trusted, what they cost, and the budget that pays."""

from __future__ import annotations

import math

import pytest
import torch

from cogvideox_core.sampling.step_cache import GROWTH, WARM_UP, Budget, StepCache, teacache_decisions
from tests.support.parity import assert_parity
from tests.support.schedules import SHAPE, seeded

START, SLOPE = (torch.randn(SHAPE, generator=seeded(seed)) for seed in (1, 2))
LATENTS = torch.randn(SHAPE, generator=seeded(3))
ALPHA = 0.5


def line(index: int) -> torch.Tensor:
    """x0 [B, C, T, H, W] that moves along a straight line."""
    return START + index * SLOPE


def filled(*indices: int) -> StepCache:
    cache = StepCache((1.0,))
    for index in indices:
        cache.remember(index, [line(index)], LATENTS, ALPHA)
    return cache


def test_one_computed_step_is_repeated() -> None:
    assert torch.equal(filled(0).predict(1)[0], line(0))


def test_a_line_that_held_is_continued() -> None:
    (x0,) = filled(0, 1, 2).predict(4)
    assert_parity(x0, line(4), 1e-5, "two steps further along the line")


def test_a_line_that_led_astray_is_not_followed() -> None:
    cache = filled(0, 1)
    cache.remember(2, [line(0)], LATENTS, ALPHA)  # it went back
    assert torch.equal(cache.predict(3)[0], line(0))


def test_nothing_is_predicted_before_the_warm_up() -> None:
    for count in range(WARM_UP):
        assert filled(*range(count)).expected_error(count) == math.inf
    assert filled(*range(WARM_UP)).expected_error(WARM_UP) < math.inf


def test_the_expected_error_grows_with_the_distance() -> None:
    cache = filled(0, 1)
    cache.remember(2, [line(2) + 0.1 * LATENTS], LATENTS, ALPHA)
    near, far = cache.expected_error(3), cache.expected_error(5)
    assert far == pytest.approx(near * 3**GROWTH)


def test_a_budget_is_released_evenly_and_spent_once() -> None:
    budget = Budget(total=0.1, count=10)
    assert not budget.pays(0, 0.2), "a tenth of the budget is released by the first step"
    assert budget.pays(1, 0.2) and budget.spent == pytest.approx(0.02)
    assert not budget.pays(1, 0.2), "it is spent"
    assert not budget.pays(9, math.inf)


def test_teacache_computes_the_first_the_last_and_where_changes_add_up() -> None:
    embeddings = torch.tensor([[1.0], [1.1], [1.21], [1.331], [1.4641]])  # each a tenth more than the last
    assert teacache_decisions(embeddings, (1.0, 0.0), threshold=0.15) == [True, False, True, False, True]
    assert teacache_decisions(embeddings, (1.0, 0.0), threshold=9.0) == [True, False, False, False, True]
