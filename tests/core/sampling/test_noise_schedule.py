"""The table a(t), timesteps and steps: golden values, and diffusers for everything else."""

from __future__ import annotations

import pytest
import torch

from cogvideox_core.sampling.noise_schedule import predict_x0
from tests.support.parity import assert_parity
from tests.support.schedules import BOUND, COUNTS, SHAPE, SHIFTS, ours, reference, seeded

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


# --- Noising and v-prediction ----------------------------------------------------------------------------------------


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
