"""Classifier-free guidance, and the dynamic scale with its published values."""

from __future__ import annotations

import pytest
import torch

from cogvideox_core.sampling.guidance import Guidance, dynamic_scale, guide


def test_guidance_moves_away_from_the_unconditional_prediction() -> None:
    unconditional, conditional = torch.tensor([1.0, 2.0]), torch.tensor([2.0, 0.0])
    assert guide(unconditional, conditional, 6.0).tolist() == [7.0, -10.0]
    assert guide(unconditional, conditional, 1.0).tolist() == [2.0, 0.0]
    assert guide(unconditional, conditional, 0.0).tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("timestep", "scale"),
    [
        (999, 2.291),
        (979, 2.544),
        (959, 6.974),
        (939, 6.420),
        (919, 2.788),
        (499, 1.521),
        (99, 6.864),
        (79, 1.064),
        (59, 1.000),
        (39, 1.000),
        (19, 1.123),
    ],
)
def test_the_dynamic_scale_has_the_published_values(timestep: int, scale: float) -> None:
    """The raw timestep stands where a step index was meant, so the scale jumps about."""
    got = dynamic_scale(6.0, timestep=timestep, step_index=0, num_inference_steps=50)
    assert got == pytest.approx(scale, abs=6e-4)


def test_the_dynamic_scale_by_step_falls_smoothly() -> None:
    scales = [
        dynamic_scale(6.0, timestep=999, step_index=index, num_inference_steps=50, by="step") for index in range(50)
    ]
    assert scales[0] == pytest.approx(7.0)
    assert scales == sorted(scales, reverse=True)
    assert scales[-1] == pytest.approx(1.0, abs=1e-6)


def test_the_scale_of_a_step_is_constant_unless_it_is_dynamic() -> None:
    assert Guidance(6.0).at(499, 25, 50) == 6.0
    dynamic = Guidance(6.0, dynamic=True, dynamic_by="step")
    assert dynamic.at(499, 25, 50) == dynamic_scale(6.0, timestep=499, step_index=25, num_inference_steps=50, by="step")


@pytest.mark.parametrize(("scale", "active"), [(0.0, False), (1.0, False), (1.01, True), (6.0, True)])
def test_guidance_of_one_or_less_computes_no_negative_prompt(scale: float, active: bool) -> None:
    assert Guidance(scale).active == active
