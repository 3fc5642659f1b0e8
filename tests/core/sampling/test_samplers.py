"""The official step rules beside diffusers' schedulers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from cogvideox_core.models.noise import draw_latents
from cogvideox_core.sampling.noise_schedule import predict_x0
from cogvideox_core.sampling.samplers import make_sampler
from tests.support.parity import assert_parity
from tests.support.schedules import BOUND, COUNTS, SHAPE, SHIFTS, frames_first, ours, reference, seeded


class Model:
    """A cheap stand-in for the network: v depends on latents and timestep, smoothly and not linearly."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(3)
        self.mix = torch.randn(16, 16, generator=generator) / 4
        self.bias = torch.randn(SHAPE, generator=generator) / 2

    def __call__(self, latents: Tensor, timestep: int) -> Tensor:
        mixed = torch.einsum("ij,bjthw->bithw", self.mix, latents)
        return torch.tanh(mixed + self.bias) * (1 + timestep / 1000)


@pytest.mark.parametrize("count", [*COUNTS, 61])
@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("name", ["ddim", "dpm"])
def test_every_step_of_a_run_equals_the_reference(name: str, shift: float, count: int) -> None:
    """Each step starts from the reference's latents; noise is drawn from two generators of one seed."""
    model, scheduler = Model(), reference(name, shift, count)
    our_generator, their_generator = seeded(), seeded()
    sampler = make_sampler(
        name, lambda like: draw_latents(like.shape, our_generator, torch.device("cpu"), torch.float32)
    )
    latents = torch.randn(SHAPE, generator=seeded(1))
    x0_old = None
    timesteps = [timestep for timestep in scheduler.timesteps if timestep >= 0]
    steps = ours(shift).steps(count)
    assert len(steps) == len(timesteps) == count
    for index, (step, timestep) in enumerate(zip(steps, timesteps, strict=True)):
        v_pred = model(latents, step.timestep)
        x, v = frames_first(latents), frames_first(v_pred)
        if name == "ddim":
            expected, x0 = scheduler.step(v, timestep, x, return_dict=False)
        else:
            back = timesteps[index - 1] if index else None
            expected, x0 = scheduler.step(v, x0_old, timestep, back, x, generator=their_generator, return_dict=False)
        x0_old = x0
        our_x0 = predict_x0(latents, v_pred, step.alpha)
        got = sampler.step(latents, our_x0, step)
        what = f"{name} shift {shift:g} N {count} step {index}"
        assert_parity(got, frames_first(expected), BOUND, what)
        assert_parity(our_x0, frames_first(x0), BOUND, f"{what} x0")
        latents = frames_first(expected)
    assert torch.equal(our_generator.get_state(), their_generator.get_state())


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("name", ["ddim", "dpm"])
def test_a_run_of_steps_ends_where_the_reference_ends(name: str, shift: float, count: int) -> None:
    model, scheduler = Model(), reference(name, shift, count)
    our_generator, their_generator = seeded(), seeded()
    sampler = make_sampler(
        name, lambda like: draw_latents(like.shape, our_generator, torch.device("cpu"), torch.float32)
    )
    got = draw_latents(SHAPE, seeded(1), torch.device("cpu"), torch.float32)
    x, x0_old, back = randn_tensor(frames_first(got).shape, generator=seeded(1)), None, None
    assert torch.equal(x, frames_first(got))
    for step, timestep in zip(ours(shift).steps(count), scheduler.timesteps, strict=True):
        got = sampler.step(got, predict_x0(got, model(got, step.timestep), step.alpha), step)
        v = frames_first(model(frames_first(x), int(timestep)))
        if name == "ddim":
            x = scheduler.step(v, timestep, x, return_dict=False)[0]
        else:
            x, x0_old = scheduler.step(v, x0_old, timestep, back, x, generator=their_generator, return_dict=False)
        back = timestep
    assert_parity(got, frames_first(x), BOUND, f"{name} shift {shift:g} N {count} whole run")


@pytest.mark.parametrize(
    ("index", "of_latents", "of_x0", "of_x0_old", "of_noise"),
    [
        (0, 0.0, 0.009262, 0.0, 0.999957),
        (1, 0.47806, 0.014941, 0.0, None),
        (25, 0.912994, 0.070107 * 1.490949, -0.070107 * 0.490949, 0.313857),
        (48, 0.472812, 0.527137 * 1.806295, -0.527137 * 0.806295, 0.100531),
    ],
)
def test_multipliers_of_the_stochastic_step_have_the_published_values(
    index: int, of_latents: float, of_x0: float, of_x0_old: float, of_noise: float | None
) -> None:
    """Fifty steps without shift; each term alone, the others at zero."""
    step = ours(1.0).steps(50)[index]
    one, zero = torch.ones(SHAPE, dtype=torch.float64), torch.zeros(SHAPE, dtype=torch.float64)

    def term(latents: Tensor, x0: Tensor, x0_old: Tensor, drawn: Tensor) -> float:
        sampler: Any = make_sampler("dpm", lambda like: drawn)
        sampler.x0_before = None if index == 0 else x0_old
        return sampler.step(latents, x0, step).flatten()[0].item()

    assert term(one, zero, zero, zero) == pytest.approx(of_latents, abs=1e-5)
    assert term(zero, one, zero, zero) == pytest.approx(of_x0, abs=2e-6)
    assert term(zero, zero, one, zero) == pytest.approx(of_x0_old, abs=2e-6)
    if of_noise is not None:
        assert term(zero, zero, zero, one) == pytest.approx(of_noise, abs=1e-6)


def test_an_unknown_sampler_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'euler'.*'ddim', 'dpm'"):
        make_sampler("euler", torch.randn_like)
