"""Nodes that put another noise schedule on our MODEL: each sampler makes a video, or stops with one sentence."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch

from cogvideox_core import CogVideoXPipeline
from tests.support.core_runs import host_noise, run_core
from tests.support.graphs import NEGATIVE, PROMPT, Graph, custom_sampling, ksampler, node, sampler, saved_latent
from tests.support.graphs import text_to_video as graph_of
from tests.support.host import ExecutionFailed, Host
from tests.support.parity import assert_parity, relative_difference

KIND = "CogVideoX-5B"
STEPS = 3
FITS = "; CogVideoX-5B predicts v at timesteps 0 to 999: "
FLOW = f" replaced this MODEL's noise schedule with one for flow models{FITS}take that node out"
TIMESTEPS = rf" with one that has timesteps \S+ to \S+{FITS}take that node out"
OUTPUT = f" with one that does not read the model's output as v{FITS}set that node to v_prediction, or take it out"
NOISE = (
    "Discrete reads the model's output as noise; CogVideoX-5B predicts v: set that node to v_prediction, or take it out"
)
OFFICIAL = (
    " replaced this MODEL's noise schedule; .* follow the official one of CogVideoX-5B: take that node out, or take"
)


class Schedule(NamedTuple):
    """A node that replaces `model_sampling`, and what a run then ends in.

    Attributes:
        refused: pattern of the sentence that ends any run; empty where ComfyUI's samplers make a video.
        warned: pattern of a sentence in the log.
    """

    node: str
    inputs: dict
    refused: str = ""
    warned: str = ""


SCHEDULES = {
    "SD3": Schedule("ModelSamplingSD3", {"shift": 3.0}, f"ModelSamplingSD3 or ModelSamplingAuraFlow{FLOW}"),
    "AuraFlow": Schedule("ModelSamplingAuraFlow", {"shift": 1.73}, FLOW),
    "Flux": Schedule(
        "ModelSamplingFlux",
        {"max_shift": 1.15, "base_shift": 0.5, "width": 96, "height": 64},
        f"ModelSamplingFlux{FLOW}",
    ),
    "LTXV": Schedule("ModelSamplingLTXV", {"max_shift": 2.05, "base_shift": 0.95}, f"ModelSamplingLTXV{FLOW}"),
    "MiniMax": Schedule("MiniMaxH3SigmaShift", {"shift_video": 12.0, "shift_audio": 3.0}, FLOW),
    "flow image": Schedule("ModelSamplingDiscrete", {"sampling": "img_to_img_flow", "zsnr": False}, FLOW),
    "v": Schedule("ModelSamplingDiscrete", {"sampling": "v_prediction", "zsnr": False}),
    "v zsnr": Schedule("ModelSamplingDiscrete", {"sampling": "v_prediction", "zsnr": True}),
    "noise": Schedule("ModelSamplingDiscrete", {"sampling": "eps", "zsnr": False}, warned=NOISE),
    "noise zsnr": Schedule("ModelSamplingDiscrete", {"sampling": "eps", "zsnr": True}, warned=NOISE),
    "lcm": Schedule("ModelSamplingDiscrete", {"sampling": "lcm", "zsnr": False}, warned=NOISE),
    "x0": Schedule("ModelSamplingDiscrete", {"sampling": "x0", "zsnr": False}, OUTPUT),
    "image": Schedule("ModelSamplingDiscrete", {"sampling": "img_to_img", "zsnr": True}, OUTPUT),
    **{
        f"EDM {name}": Schedule(
            "ModelSamplingContinuousEDM", {"sampling": name, "sigma_max": 120.0, "sigma_min": 0.002}, sentence
        )
        for name, sentence in {
            "v_prediction": TIMESTEPS,
            "eps": TIMESTEPS,
            "edm": OUTPUT,
            "edm_playground_v2.5": OUTPUT,
            "cosmos_rflow": FLOW,
        }.items()
    },
    "continuous v": Schedule(
        "ModelSamplingContinuousV", {"sampling": "v_prediction", "sigma_max": 500.0, "sigma_min": 0.03}, TIMESTEPS
    ),
    "Cascade": Schedule("ModelSamplingStableCascade", {"shift": 2.0}, TIMESTEPS),
}


def by_ksampler(graph: Graph, name: str, scheduler: str = "simple") -> None:
    graph["sampler"] = ksampler()
    graph["sampler"]["inputs"] |= {"steps": STEPS, "sampler_name": name, "scheduler": scheduler}


def by_parts(graph: Graph, rule: dict, sigmas: dict) -> None:
    parts = custom_sampling(KIND)
    graph |= {name: parts[name] for name in ("noise", "guider", "sampler")} | {"rule": rule, "sigmas": sigmas}


def by_speed(graph: Graph) -> None:
    by_ksampler(graph, "euler")
    graph["fast"] = node("CogVideoXSpeed", model=["model", 0], cache_budget=1.0, teacache=0.0, guidance_until=0.5)
    graph["sampler"]["inputs"]["model"] = ["fast", 0]


OURS = node("CogVideoXSamplerSelect", sampler="dpm++ 2m sde", dynamic_cfg="off")
EULER = node("KSamplerSelect", sampler_name="euler")
OUR_SIGMAS = node("CogVideoXScheduler", model=["model", 0], steps=STEPS, denoise=1.0)
SAMPLERS: dict[str, Callable[[Graph], None]] = {
    **{
        name: lambda graph, name=name: by_ksampler(graph, name)
        for name in ("euler", "dpmpp_2m_sde", "uni_pc", "ddim", "lcm")
    },
    **{
        f"euler {name}": lambda graph, name=name: by_ksampler(graph, "euler", name)
        for name in ("normal", "sgm_uniform", "karras", "exponential", "ddim_uniform", "beta", "kl_optimal")
    },
    "parts": lambda graph: by_parts(graph, EULER, basic("linear_quadratic")),
    "SDTurbo": lambda graph: by_parts(
        graph, EULER, node("SDTurboScheduler", model=["model", 0], steps=STEPS, denoise=1.0)
    ),
    "speed": by_speed,
}
OFFICIAL_SAMPLERS: dict[str, Callable[[Graph], None]] = {
    "official": lambda graph: graph.update(sampler=sampler(steps=STEPS)),
    "official parts": lambda graph: by_parts(graph, OURS, OUR_SIGMAS),
    "official rule": lambda graph: by_parts(graph, OURS, basic("simple")),
    "official sigmas": lambda graph: by_parts(graph, EULER, OUR_SIGMAS),
}


def basic(scheduler: str) -> dict:
    return node("BasicScheduler", model=["model", 0], scheduler=scheduler, steps=STEPS, denoise=1.0)


def behind(schedule: Schedule | None, build: Callable[[Graph], None]) -> Graph:
    """A run whose sampler and scheduler take the model from the node of `schedule`."""
    graph = graph_of(KIND)
    build(graph)
    if schedule is None:
        return graph
    for name in ("sampler", "guider", "sigmas", "fast"):
        inputs = graph.get(name, {}).get("inputs", {})
        if inputs.get("model") == ["model", 0]:
            graph[name] = node(graph[name]["class_type"], **{**inputs, "model": ["patched", 0]})
    return graph | {"patched": node(schedule.node, model=["model", 0], **schedule.inputs)}


def outcome(host: Host, graph: Graph, client: str | None = None) -> torch.Tensor | str:
    """The latent, or the sentence."""
    try:
        return saved_latent(host, host.run(graph, client_id=client))
    except ExecutionFailed as failed:
        return str(failed)


def combinations() -> list[tuple[str, str]]:
    """Every sampler on the schedules that make a video, and on those that do not, one of each way to the sampler."""
    few = ("euler", "uni_pc", "parts", "SDTurbo", "speed")
    pairs = [(name, by) for name, row in SCHEDULES.items() for by in (few if row.refused else SAMPLERS)]
    pairs.remove(("EDM cosmos_rflow", "SDTurbo"))  # ComfyUI's scheduler cannot ask that schedule, whatever the model
    return pairs


@pytest.mark.parametrize(("schedule", "name"), combinations())
def test_comfyuis_samplers_make_a_video_or_say_why_not(host: Host, toys: dict, schedule: str, name: str) -> None:
    expected, before = SCHEDULES[schedule], len(host.log_text())
    found = outcome(host, behind(expected, SAMPLERS[name]))
    if expected.refused:
        assert isinstance(found, str), "a video"
        assert is_sentence(found, expected.refused), found
        return
    assert isinstance(found, torch.Tensor), found
    assert found.isfinite().all()
    said = host.log_text()[before:]
    assert len(re.findall(expected.warned or "noise schedule|as noise", said)) == bool(expected.warned), said


@pytest.mark.parametrize("name", OFFICIAL_SAMPLERS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_official_samplers_take_the_official_schedule_only(
    host: Host, toys: dict, schedule: str, name: str
) -> None:
    found = outcome(host, behind(SCHEDULES[schedule], OFFICIAL_SAMPLERS[name]))
    assert isinstance(found, str), "a video"
    refused = SCHEDULES[schedule].refused
    assert is_sentence(found, f"({OFFICIAL})" + (f"|({refused})" if refused else "")), found


@pytest.mark.parametrize("schedule", ["SD3", "v"])
def test_previews_take_another_schedule_too(host: Host, toys: dict, schedule: str) -> None:
    with host.events() as events:
        found = outcome(host, behind(SCHEDULES[schedule], SAMPLERS["dpmpp_2m_sde"]), events.client_id)
    refused = SCHEDULES[schedule].refused
    assert is_sentence(found, refused) if isinstance(found, str) else not refused
    assert bool(refused) != bool(events.of_type("cogvideox.step"))


def test_every_node_that_replaces_the_schedule_is_in_the_table(host: Host) -> None:
    known = {schedule.node for schedule in SCHEDULES.values()} | {"ModelNoiseScale"}
    found = {name for name in host.object_info() if name.startswith("ModelSampling") or "SigmaShift" in name}
    assert found <= known


def test_a_node_that_asks_the_schedule_for_what_flow_models_have_ends_in_a_sentence(host: Host, toys: dict) -> None:
    scaled = Schedule("ModelNoiseScale", {"noise_scale": 2.0})
    found = outcome(host, behind(scaled, SAMPLERS["euler"]))
    assert isinstance(found, str)
    assert is_sentence(
        found, "CogVideoX's noise schedule has no 'set_parameters', .* flow models have: take that node out"
    )


def test_another_v_table_is_followed_to_the_letter(host: Host, toys: dict, core: Callable) -> None:
    found = outcome(host, behind(SCHEDULES["v"], SAMPLERS["euler"]))
    assert isinstance(found, torch.Tensor), found
    assert_parity(found, euler_on_another_table(core(KIND)), 1e-4, "euler on Stable Diffusion's table")


def test_what_another_clone_was_patched_with_does_not_stay(host: Host, toys: dict, core: Callable) -> None:
    plain = run_core(core(KIND), num_inference_steps=STEPS)
    parts = outcome(host, behind(None, OFFICIAL_SAMPLERS["official parts"]))
    assert isinstance(outcome(host, behind(SCHEDULES["v"], SAMPLERS["euler ddim_uniform"])), torch.Tensor)
    graph = behind(None, OFFICIAL_SAMPLERS["official"])
    graph["sampler"]["inputs"]["cfg"] = 6.5  # so that nothing is cached
    after = outcome(host, graph)
    assert isinstance(after, torch.Tensor), after
    assert_parity(after, run_core(core(KIND), num_inference_steps=STEPS, guidance_scale=6.5), 1e-5, "a plain run after")
    assert relative_difference(after, plain) > 1e-4
    assert isinstance(parts, torch.Tensor), parts


def is_sentence(text: str, pattern: str) -> bool:
    return "\n" not in text and "Error" not in text and re.search(pattern, text) is not None


@torch.no_grad()
def euler_on_another_table(pipeline: CogVideoXPipeline) -> torch.Tensor:
    """z of an Euler run over the sigmas of betas 0.00085 to 0.012, linear in their roots, at evenly chosen ones."""
    alphas = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, dim=0)
    table = ((1 - alphas) / alphas).sqrt().float()
    timesteps = [999 - int(step * 1000 / STEPS) for step in range(STEPS)]
    sigmas = [*table[timesteps].tolist(), 0.0]
    assert pipeline.text_encoder is not None
    embeds = torch.cat([pipeline.text_encoder([NEGATIVE]), pipeline.text_encoder([PROMPT])])
    x = host_noise(pipeline) * (1 + sigmas[0] ** 2) ** 0.5
    for step, timestep in enumerate(timesteps):
        sigma = sigmas[step]
        root = (1 + sigma**2) ** 0.5
        v = pipeline.transformer((x / root).expand(2, -1, -1, -1, -1), embeds, torch.tensor([timestep] * 2))
        x0 = x / root**2 - v * sigma / root
        x0 = x0[:1] + 6.0 * (x0[1:] - x0[:1])
        x = x0 + (x - x0) * sigmas[step + 1] / sigma
    return x / pipeline.variant.vae.scaling_factor
