"""Random numbers of a step: the same for the same key, whatever was drawn before."""

from __future__ import annotations

import random

import pytest
import torch

from cogvideox_core.training.objective import seeded_generator, seeded_random


def test_a_key_gives_the_same_numbers_whatever_was_drawn_before() -> None:
    first = [seeded_random(0, step, 3).random() for step in range(100)]
    noise = torch.randn(4, generator=seeded_generator(0, 7))
    random.seed(1)
    torch.manual_seed(1)
    assert [seeded_random(0, step, 3).random() for step in range(100)] == first
    assert torch.equal(torch.randn(4, generator=seeded_generator(0, 7)), noise)


def test_every_key_has_numbers_of_its_own() -> None:
    keys = [(0,), (1,), (0, 1), (1, 0), (0, 1, 1), (0, 11), (1, -1)]
    assert len({seeded_random(*key).random() for key in keys}) == len(keys)
    assert len({torch.randn((), generator=seeded_generator(*key)).item() for key in keys}) == len(keys)


def test_the_numbers_of_a_key_stay_what_they_are() -> None:
    """Training runs that were started before are resumed with them."""
    assert seeded_random(8, 120, 5).random() == pytest.approx(0.5670761499733797)
    assert torch.randn((), generator=seeded_generator(8, 120, 5)).item() == pytest.approx(-1.2013846635818481)
