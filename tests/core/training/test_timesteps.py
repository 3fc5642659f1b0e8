"""Timesteps: spread evenly over all noise levels, more often in a focus, and the same for any number of processes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cogvideox_core.training.recipe import Focus
from cogvideox_core.training.timesteps import explicit_uniform, independent

every_way = pytest.mark.parametrize("draw", [explicit_uniform, independent])


def test_explicit_uniform_gives_every_clip_an_interval_of_its_own() -> None:
    batch_size = 20
    for step in range(30):
        timesteps = explicit_uniform(step, range(batch_size), batch_size, seed=1)
        assert sorted(timestep * batch_size // 1000 for timestep in timesteps) == list(range(batch_size))
    orders = {tuple(t // 50 for t in explicit_uniform(step, range(20), 20)) for step in range(30)}
    assert len(orders) == 30, "the intervals are dealt out the same way every time"


def test_independent_timesteps_leave_gaps() -> None:
    held = [len({t // 50 for t in independent(step, range(20), 20)}) for step in range(30)]
    assert max(held) < 20  # 20 of 20 intervals has a chance of 2e-8


@every_way
def test_timesteps_are_uniform_over_all(draw: Any) -> None:
    drawn = torch.tensor([draw(step, range(8), 8, seed=3) for step in range(4000)]).flatten().float()
    assert drawn.min() == 0 and drawn.max() == 999
    assert abs(drawn.mean() - 499.5) < 8
    counts = torch.histc(drawn, 10, 0, 1000)
    assert (counts / counts.mean() - 1).abs().max() < 0.08


@every_way
def test_a_focus_gets_its_share_of_the_timesteps(draw: Any) -> None:
    focus = Focus(500, 900, 0.6)
    drawn = torch.tensor([draw(step, range(8), 8, focus=focus) for step in range(1500)]).flatten()
    assert drawn.min() < 20 and drawn.max() > 980
    for low, high, share in ((500, 900, 0.76), (500, 700, 0.38), (0, 500, 0.2), (0, 250, 0.1), (900, 1000, 0.04)):
        assert abs(((drawn >= low) & (drawn < high)).float().mean() - share) < 0.02, (low, high)


@every_way
def test_processes_draw_what_one_process_would(draw: Any) -> None:
    whole = draw(5, range(12), 12, seed=2)
    assert draw(5, range(4), 12, seed=2) + draw(5, range(4, 12), 12, seed=2) == whole
