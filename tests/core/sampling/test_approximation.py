"""Predicted steps: what is predicted, when, and that nothing changes where nothing is asked."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import CogVideoXTransformer3DModel
from torch import Tensor

from cogvideox_core import VARIANTS, CogVideoXPipeline, Progress, Request, load_pipeline, load_transformer
from cogvideox_core.demo import DEMO_GUIDANCE, DEMO_STEPS
from cogvideox_core.sampling.approximation import ApproximateRun, Approximation, approximate
from cogvideox_core.sampling.noise_schedule import NoiseSchedule
from cogvideox_core.sampling.step_cache import StepCache, teacache_decisions
from tests.support.checkpoints import OFFICIAL
from tests.support.parity import assert_parity, snr_db

Checkpoint = Callable[..., Path]
Exact = Callable[..., tuple[Tensor, int]]

COUNT = 20
STEPS = NoiseSchedule(VARIANTS["CogVideoX-5B"].schedule).steps(COUNT)
SHAPE = (2, 16, 2, 4, 6)


def draw(seed: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def walk(answer: Callable[[int], list[Tensor]], scale: float | None = None, **options: Any) -> tuple[list, list]:
    """A run in which the model's answer at each step is known: what was told, and which steps were computed how."""
    run = ApproximateRun(Approximation(**options), [step.timestep for step in STEPS], scale)
    told, computed = [], []
    for index, step in enumerate(STEPS):

        def compute(with_negative: bool, index: int = index) -> list[Tensor]:
            computed.append((index, with_negative))
            return answer(index) if with_negative else answer(index)[:1]

        told.append(run.predict(step.timestep, draw(1000 + index), step.alpha, compute))
    return told, computed


# --- The rule --------------------------------------------------------------------------------------------------------


def test_what_moves_along_a_line_is_predicted_right_once_the_line_is_known() -> None:
    start, slope = draw(1), draw(2)
    told, computed = walk(lambda index: [start + index * slope], cache_budget=0.05)
    assert len(computed) <= 8
    assert computed[-1][0] == COUNT - 1, "the last step is always computed"
    for index, (x0,) in enumerate(told):
        assert_parity(x0, start + index * slope, 1e-5, f"step {index}")


def test_a_line_is_not_followed_where_it_led_astray() -> None:
    start, noises = draw(1), [0.01 * draw(100 + index) for index in range(COUNT)]
    told, computed = walk(lambda index: [start + noises[index]], cache_budget=0.05)
    indices = [index for index, _ in computed]
    assert len(indices) < COUNT
    for index in set(range(4, COUNT)) - set(indices):
        assert (told[index][0] - start).std() < 0.02, "a line through noise doubles it, and more so further on"


def test_clips_of_a_batch_are_predicted_each_by_its_own_line() -> None:
    steps, start, slope = StepCache((1.0,)), draw(1), draw(2)
    ways = torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 0.0]])  # the first clip goes on, the second turns back
    for index, way in enumerate(ways):
        steps.remember(index, [start + way.view(2, 1, 1, 1, 1) * slope], draw(3), 0.5)
    (x0,) = steps.predict(3)
    assert_parity(x0[0], start[0] + 3 * slope[0], 1e-5, "a line that holds is followed")
    assert_parity(x0[1], start[1], 1e-5, "a line that led astray is not")


def test_a_budget_of_nothing_computes_every_step() -> None:
    _, computed = walk(lambda index: [draw(index)])
    assert computed == [(index, True) for index in range(COUNT)]


def test_more_budget_computes_fewer_steps() -> None:
    counts = []
    for budget in (1e-6, 0.001, 0.01, 0.1):
        _, computed = walk(lambda index: [draw(1) + index**2 * draw(2) / 400], cache_budget=budget)
        counts.append(len(computed))
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == COUNT
    assert counts[-1] < 10


def test_an_error_counts_as_guidance_multiplies_it() -> None:
    """Each answer moves evenly, but what guidance makes of them jumps about."""
    still, jumps = draw(1), [0.02 * (index % 2) * draw(2) for index in range(COUNT)]

    def answer(index: int) -> list[Tensor]:
        return [still + jumps[index], still - jumps[index]]

    counts = [len(walk(answer, scale, cache_budget=0.02)[1]) for scale in (1.5, 12.0)]
    assert counts[0] < counts[1]


def test_a_timestep_outside_the_run_or_seen_before_is_computed_and_not_remembered() -> None:
    run = ApproximateRun(Approximation(cache_budget=1.0), [step.timestep for step in STEPS], None)
    asked: list[int] = []

    def ask(timestep: int) -> Tensor:
        def compute(_: bool) -> list[Tensor]:
            asked.append(timestep)
            return [draw(1) if timestep in [step.timestep for step in STEPS] else 100 * draw(2)]

        return run.predict(timestep, draw(3), 0.5, compute)[0]

    for step in STEPS[:-1]:
        ask(step.timestep)
        between, before = step.timestep - 20, len(asked)
        ask(between)
        ask(step.timestep)
        assert asked[before:] == [between, step.timestep]
    assert torch.equal(run.predict(STEPS[-1].timestep, draw(3), 0.5, lambda _: [draw(1)])[0], draw(1))
    assert run.done == 4, "three to warm up, and the last"


# --- Guidance in a part of the steps ---------------------------------------------------------------------------------


def test_after_its_part_guidance_is_kept_and_fades_with_the_noise() -> None:
    answers = [[draw(index), draw(50 + index)] for index in range(COUNT)]
    told, computed = walk(lambda index: answers[index], 6.0, guidance_until=0.5)
    assert computed == [(index, index < 10) for index in range(COUNT)]
    added = (answers[9][0] - answers[9][1]) / (1 - STEPS[9].alpha)
    for index in range(10, COUNT):
        assert torch.equal(told[index][0], answers[index][0])
        wanted = answers[index][0] - (1 - STEPS[index].alpha) * added
        assert_parity(told[index][1], wanted, 1e-6, f"step {index}")


def test_without_guidance_there_is_none_to_leave_out() -> None:
    _, computed = walk(lambda index: [draw(index)], None, guidance_until=0.5)
    assert computed == [(index, True) for index in range(COUNT)]


# --- TeaCache --------------------------------------------------------------------------------------------------------


# Highest power first, as the authors' script for CogVideoX has them (ali-vilab/TeaCache, TeaCache4CogVideoX1.5).
PUBLISHED = {
    "CogVideoX-2B": [-3.10658903e01, 2.54732368e01, -5.92380459e00, 1.75769064e00, -3.61568434e-03],
    "CogVideoX-5B": [-1.53880483e03, 8.43202495e02, -1.34363087e02, 7.97131516e00, -5.23162339e-02],
    "CogVideoX-5B-I2V": [-1.53880483e03, 8.43202495e02, -1.34363087e02, 7.97131516e00, -5.23162339e-02],
    "CogVideoX1.5-5B": [2.50210439e02, -1.65061612e02, 3.57804877e01, -7.81551492e-01, 3.58559703e-02],
    "CogVideoX1.5-5B-I2V": [1.22842302e02, -1.04088754e02, 2.62981677e01, -3.06009921e-01, 3.71213220e-02],
}


@pytest.mark.parametrize("name", list(VARIANTS))
@pytest.mark.parametrize("threshold", [0.05, 0.2])
def test_teacache_decides_as_published(name: str, threshold: float, checkpoint: Checkpoint) -> None:
    """Its rule in numpy's words, on the time embedding of diffusers' model."""
    folder = checkpoint(name)
    peer: Any = CogVideoXTransformer3DModel.from_pretrained(folder / "transformer", torch_dtype=torch.float32)
    timesteps = [step.timestep for step in STEPS]
    polynomial = np.poly1d(PUBLISHED[name])
    added, wanted, previous = 0.0, [], None
    for index, timestep in enumerate(timesteps):
        embedding = peer.time_embedding(peer.time_proj(torch.tensor([timestep])))
        if peer.ofs_embedding is not None:
            embedding = embedding + peer.ofs_embedding(peer.ofs_proj(torch.tensor([2.0])))
        if index in (0, COUNT - 1):
            wanted.append(True)
        else:
            assert previous is not None
            added += polynomial(((embedding - previous).abs().mean() / previous.abs().mean()).item())
            wanted.append(added >= threshold)
            added = 0.0 if wanted[-1] else added
        previous = embedding
    assert list(VARIANTS[name].teacache) == PUBLISHED[name]
    transformer = load_transformer(folder, dtype="float32")
    with torch.no_grad():
        embeddings = transformer.time_vector(torch.tensor(timesteps), None, torch.zeros(1))
    assert teacache_decisions(embeddings, VARIANTS[name].teacache, threshold) == wanted


def test_teacache_adds_up_changes_until_the_threshold_and_then_starts_again() -> None:
    embeddings = torch.ones(COUNT, 1)
    plan = teacache_decisions(embeddings, coefficients=(0.0, 0.1), threshold=0.25)  # each step adds 0.1
    assert [index for index, computed in enumerate(plan) if computed] == [0, 3, 6, 9, 12, 15, 18, 19]


def test_teacache_computes_what_its_plan_says(checkpoint: Checkpoint) -> None:
    transformer = load_transformer(checkpoint("CogVideoX-5B"), dtype="float32")
    assert transformer.variant is not None
    timesteps = [step.timestep for step in STEPS]
    embeddings = transformer.time_vector(torch.tensor(timesteps), None, torch.zeros(1))
    plan = teacache_decisions(embeddings, transformer.variant.teacache, 0.25)
    run = approximate(Approximation(teacache=0.25), transformer, timesteps, None, torch.zeros(1))
    computed = []
    for index, step in enumerate(STEPS):

        def compute(_: bool, index: int = index) -> list[Tensor]:
            computed.append(index)
            return [draw(index)]

        run.predict(step.timestep, draw(index), step.alpha, compute)
    assert computed == [index for index, yes in enumerate(plan) if yes]
    assert len(computed) < COUNT


def test_a_model_without_a_polynomial_is_told(checkpoint: Checkpoint) -> None:
    transformer = load_transformer(checkpoint("CogVideoX-5B"), dtype="float32")
    transformer.variant = None
    with pytest.raises(ValueError, match=r"teacache=0.1, but there is no polynomial for this model; use cache_budget"):
        approximate(Approximation(teacache=0.1), transformer, [999], None, torch.zeros(1))


# --- Whole runs ------------------------------------------------------------------------------------------------------


class Counted:
    """A pipeline whose transformer counts the clips it is asked for."""

    def __init__(self, pipeline: CogVideoXPipeline) -> None:
        self.pipeline = pipeline
        self.clips = 0
        pipeline.transformer.register_forward_pre_hook(self._count)

    def _count(self, module: Any, arguments: tuple[Tensor, ...]) -> None:
        self.clips += len(arguments[0])

    def __call__(self, prompt: str = "a red ball bounces in front of a meadow", **options: Any) -> tuple[Tensor, int]:
        """Latents, and how many clips they took."""
        self.clips = 0
        settings: dict[str, Any] = {
            "generator": torch.Generator().manual_seed(3),
            "num_inference_steps": DEMO_STEPS,
            "guidance_scale": DEMO_GUIDANCE,
            "output_type": "latent",
        }
        return self.pipeline(prompt, **settings | options), self.clips


@pytest.fixture(scope="module")
def demo() -> Counted:
    return Counted(load_pipeline(dtype="float32", device="cpu"))


@pytest.fixture(scope="module")
def exact(demo: Counted) -> Exact:
    """`exact(**options)`: what `demo` gives without approximations, computed once."""
    return cache(demo)


def test_off_is_bit_for_bit_the_exact_run_and_a_budget_too_small_for_anything_computes_all(
    demo: Counted, exact: Exact
) -> None:
    latents, clips = demo(cache_budget=0.0, teacache=0.0, guidance_until=1.0)
    assert torch.equal(latents, exact()[0])
    assert clips == 2 * DEMO_STEPS
    latents, clips = demo(cache_budget=1e-9)
    assert_parity(latents, exact()[0], 1e-4, "every step computed")
    assert clips == 2 * DEMO_STEPS


@pytest.mark.parametrize(
    ("options", "most", "least_db"),
    [
        ({"cache_budget": 0.03}, 0.56, 34),
        ({"num_inference_steps": 50, "cache_budget": 0.03}, 0.40, 36),
        ({"sampler": "dpm", "cache_budget": 0.02}, 0.80, 32),
        ({"teacache": 0.1}, 0.82, 32),
        ({"guidance_until": 0.8}, 0.90, 26),
    ],
)
def test_time_is_saved_at_a_bounded_cost(
    demo: Counted, exact: Exact, options: dict, most: float, least_db: float
) -> None:
    plain = {name: value for name, value in options.items() if name in ("num_inference_steps", "sampler")}
    wanted, of = exact(**plain)
    latents, clips = demo(**options)
    decibels = snr_db(latents, wanted)
    print(f"approximation | {options} | {clips / of:.2f} of the work, {decibels:.1f} dB")
    assert clips <= most * of
    assert decibels >= least_db


def test_a_run_knows_nothing_of_another(demo: Counted) -> None:
    first = demo(cache_budget=0.05, num_inference_steps=12)
    demo("a blue square stands still on a grey wall", cache_budget=0.1, num_inference_steps=10)
    again = demo(cache_budget=0.05, num_inference_steps=12)
    assert torch.equal(again[0], first[0])
    assert again[1] == first[1] < 24


def test_an_interrupted_run_leaves_the_model_whole(demo: Counted, exact: Exact) -> None:
    def stop(progress: Progress) -> None:
        if progress.stage == "sampling" and progress.step == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        demo(cache_budget=0.03, callback=stop)
    assert torch.equal(demo()[0], exact()[0])


@pytest.mark.parametrize("kind", list(OFFICIAL))
def test_every_model_takes_every_option(kind: str, checkpoint: Checkpoint) -> None:
    pipeline = Counted(load_pipeline(checkpoint(kind), device="cpu"))
    variant = pipeline.pipeline.variant
    request: dict[str, Any] = {"height": 64, "width": 96, "num_frames": 17, "num_inference_steps": 12}
    if variant.conditioning == "image":
        request["image"] = torch.rand(3, request["height"], request["width"])
    _, of = pipeline(**request)
    for option, value in (("cache_budget", 1.0), ("teacache", 1.0), ("guidance_until", 0.5)):
        request[option] = value
        latents, clips = pipeline(**request, use_dynamic_cfg=True, sampler="dpm")
        del request[option]
        assert latents.isfinite().all()
        if option != "teacache":  # the time embedding of random weights changes too much for it
            assert clips < of, option


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"cache_budget": -0.1}, "cache_budget=-0.1; it is an error from 0, for none, to 1; 0.03 is usual"),
        ({"cache_budget": float("nan")}, "cache_budget=nan"),
        ({"teacache": 2.0}, "teacache=2.0; it is a threshold from 0, for off, to 1; 0.1 is usual"),
        ({"guidance_until": 0.0}, "guidance_until=0.0; it is the part of the steps with guidance, above 0"),
        ({"cache_budget": 0.1, "teacache": 0.1}, "both decide which steps are computed; set one of them to 0"),
    ],
)
def test_options_that_do_not_fit_are_told(options: dict, sentence: str) -> None:
    variant = VARIANTS["CogVideoX-5B"]
    with pytest.raises(ValueError, match=sentence):
        Request(prompt="a cat", **options).check(variant.transformer, variant)
