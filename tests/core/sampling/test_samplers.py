"""Noise schedule and step rules: golden values, and diffusers for everything else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import CogVideoXDDIMScheduler, CogVideoXDPMScheduler
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from cogvideox_core.models.config import ScheduleConfig
from cogvideox_core.models.noise import draw_latents
from cogvideox_core.sampling.noise_schedule import NoiseSchedule, Step, predict_x0
from cogvideox_core.sampling.samplers import check_finite, make_sampler
from tests.support.checkpoints import OFFICIAL
from tests.support.parity import assert_parity

BOUND = 1e-6
SHIFTS = (1.0, 3.0)
COUNTS = (1, 4, 7, 20, 50)
SHAPE = (1, 16, 3, 4, 6)  # [B, C, T, H, W]


def ours(shift: float) -> NoiseSchedule:
    return NoiseSchedule(ScheduleConfig(snr_shift_scale=shift))


def reference(name: str, shift: float, num_inference_steps: int | None = None) -> Any:
    scheduler_class = {"ddim": CogVideoXDDIMScheduler, "dpm": CogVideoXDPMScheduler}[name]
    scheduler = scheduler_class(**OFFICIAL["CogVideoX-5B"].scheduler | {"snr_shift_scale": shift})
    if num_inference_steps is not None:
        scheduler.set_timesteps(num_inference_steps)
    return scheduler


def frames_first(latents: Tensor) -> Tensor:
    """Between our [B, C, T, H, W] and diffusers' [B, T, C, H, W], either way."""
    return latents.transpose(1, 2)


# --- The table a(t) -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("timestep", "plain", "shifted"),
    [
        (0, 0.999150, 0.997454),
        (1, 0.998233, 0.994801),
        (19, 0.981010, 0.946573),
        (99, 0.888086, 0.730867),
        (199, 0.738700, 0.490373),
        (399, 0.393544, 0.178615),
        (499, 0.242359, 0.0959696),
        (599, 0.128448, 0.0461614),
        (799, 0.0178832, 0.00582108),
        (979, 8.57878e-5, 2.71944e-5),
        (998, 1.96789e-7, 6.23e-8),
        (999, 0.0, 0.0),
    ],
)
def test_alphas_have_the_published_values(timestep: int, plain: float, shifted: float) -> None:
    assert ours(1.0).alpha(timestep) == pytest.approx(plain, rel=1e-5)
    assert ours(3.0).alpha(timestep) == pytest.approx(shifted, rel=1e-3 if timestep == 998 else 1e-5)


@pytest.mark.parametrize("shift", SHIFTS)
def test_every_alpha_equals_the_reference(shift: float) -> None:
    alphas, expected = ours(shift).alphas_cumprod, reference("ddim", shift).alphas_cumprod
    assert_parity(alphas, expected, BOUND, f"alphas shift {shift:g}")
    assert alphas[-1] == 0.0
    # The last alphas are tiny beside the first, so each is also compared with itself.
    assert ((alphas - expected).abs()[:-1] / expected[:-1]).max() <= BOUND


def test_below_zero_nothing_is_left_but_the_video() -> None:
    assert ours(1.0).alpha(-1) == 1.0


# --- Timesteps ------------------------------------------------------------------------------------------------------


def test_timesteps_trail() -> None:
    schedule = ours(1.0)
    assert schedule.timesteps(50) == list(range(999, 0, -20))
    assert schedule.timesteps(30)[:4] == [999, 966, 932, 899]
    assert schedule.timesteps(30)[-2:] == [66, 32]
    assert schedule.timesteps(1) == [999]


def test_timesteps_equal_the_reference_for_every_number_of_steps() -> None:
    """For 62 counts (61, 103, 121, ...) the reference appends -1, which is no timestep and which ours leaves out."""
    schedule, scheduler = ours(1.0), reference("ddim", 1.0)
    quirky = []
    for count in range(1, 1001):
        scheduler.set_timesteps(count)
        expected = scheduler.timesteps.tolist()
        if len(expected) != count:
            assert len(expected) == count + 1 and expected[-1] < 0
            quirky.append(count)
        assert schedule.timesteps(count) == [timestep for timestep in expected if timestep >= 0], count
    assert len(quirky) == 62 and quirky[:5] == [61, 103, 121, 122, 201]


@pytest.mark.parametrize("count", [0, -1, 1001])
def test_a_number_of_steps_out_of_range_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match="1 to 1000"):
        ours(1.0).timesteps(count)


@pytest.mark.parametrize("count", [*COUNTS, 30, 61])
def test_a_step_leads_to_a_whole_stride_back_not_to_the_next_timestep(count: int) -> None:
    schedule = ours(1.0)
    steps = schedule.steps(count)
    stride = 1000 // count
    assert [step.timestep for step in steps] == schedule.timesteps(count)
    for index, step in enumerate(steps):
        assert step.previous == step.timestep - stride
        assert step.alpha == schedule.alpha(step.timestep)
        assert step.alpha_previous == schedule.alpha(step.previous)
        assert step.alpha_back == (schedule.alpha(steps[index - 1].timestep) if index else None)


@pytest.mark.parametrize(("strength", "kept"), [(1.0, 50), (0.8, 40), (0.5, 25), (0.03, 1)])
def test_strength_keeps_the_last_steps(strength: float, kept: int) -> None:
    steps = ours(1.0).steps(50, strength)
    assert [step.timestep for step in steps] == list(range(999, 0, -20))[50 - kept :]
    assert steps[0].alpha_back is None


@pytest.mark.parametrize("strength", [0.0, -0.5, 1.5, 0.01])
def test_a_strength_that_leaves_no_step_is_refused(strength: float) -> None:
    with pytest.raises(ValueError, match="strength"):
        ours(1.0).steps(50, strength)


# --- Step rules -----------------------------------------------------------------------------------------------------


class Model:
    """A cheap stand-in for the network: v depends on latents and timestep, smoothly and not linearly."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(3)
        self.mix = torch.randn(16, 16, generator=generator) / 4
        self.bias = torch.randn(SHAPE, generator=generator) / 2

    def __call__(self, latents: Tensor, timestep: int) -> Tensor:
        mixed = torch.einsum("ij,bjthw->bithw", self.mix, latents)
        return torch.tanh(mixed + self.bias) * (1 + timestep / 1000)


def seeded(seed: int = 11) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


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
        got = sampler.step(latents, v_pred, step)
        what = f"{name} shift {shift:g} N {count} step {index}"
        assert_parity(got, frames_first(expected), BOUND, what)
        assert_parity(sampler.x0_pred, frames_first(x0), BOUND, f"{what} x0")
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
        got = sampler.step(got, model(got, step.timestep), step)
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
    signal, noise = step.alpha**0.5, (1 - step.alpha) ** 0.5

    def term(latents: Tensor, x0: Tensor, x0_old: Tensor, drawn: Tensor) -> float:
        sampler = make_sampler("dpm", lambda like: drawn)
        sampler.x0_pred = None if index == 0 else x0_old
        v_pred = (signal * latents - x0) / noise  # the v that implies x0
        return sampler.step(latents, v_pred, step).flatten()[0].item()

    assert term(one, zero, zero, zero) == pytest.approx(of_latents, abs=1e-5)
    assert term(zero, one, zero, zero) == pytest.approx(of_x0, abs=2e-6)
    assert term(zero, zero, one, zero) == pytest.approx(of_x0_old, abs=2e-6)
    if of_noise is not None:
        assert term(zero, zero, zero, one) == pytest.approx(of_noise, abs=1e-6)


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("timestep", [999, 979, 499, 19, 0])
def test_noising_equals_the_reference(shift: float, timestep: int) -> None:
    clean, noise = torch.randn(SHAPE, generator=seeded(1)), torch.randn(SHAPE, generator=seeded(2))
    expected = reference("ddim", shift).add_noise(clean, noise, torch.tensor([timestep]))
    assert_parity(ours(shift).add_noise(clean, noise, timestep), expected, BOUND, f"add_noise {shift:g} t={timestep}")


@pytest.mark.parametrize("timestep", [979, 499, 19])
def test_velocity_and_clean_latents_are_inverse(timestep: int) -> None:
    clean, noise = torch.randn(SHAPE, generator=seeded(1)), torch.randn(SHAPE, generator=seeded(2))
    schedule, scheduler = ours(1.0), reference("ddim", 1.0)
    v = scheduler.get_velocity(clean, noise, torch.tensor([timestep]))
    noisy = schedule.add_noise(clean, noise, timestep)
    assert_parity(predict_x0(noisy, v, schedule.alpha(timestep)), clean, BOUND, f"x0 of v, t={timestep}")


def test_an_unknown_sampler_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'euler'.*'ddim', 'dpm'"):
        make_sampler("euler", torch.randn_like)


def test_latents_that_are_not_finite_name_step_and_dtype() -> None:
    step = Step(499, 479, 0.2, 0.3, None)
    check_finite(torch.zeros(SHAPE), step, torch.float16)
    with pytest.raises(FloatingPointError, match="timestep 499.*float16.*bfloat16"):
        check_finite(torch.full(SHAPE, float("nan")), step, torch.float16)
