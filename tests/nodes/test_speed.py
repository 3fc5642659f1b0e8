"""CogVideoX Speed, and ComfyUI's EasyCache, on our MODEL in a real ComfyUI."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from types import ModuleType

import pytest
import torch

from cogvideox_core import CogVideoXPipeline
from cogvideox_core.models.noise import draw_latents
from tests import provision
from tests.support.core_runs import host_noise, run_core
from tests.support.graphs import SEED, Graph, custom_sampling, ksampler, node, saved_latent, text_to_video, two_stages
from tests.support.host import ExecutionFailed, Host
from tests.support.parity import assert_parity, snr_db
from tests.support.words import locale

Core = Callable[[str], CogVideoXPipeline]

STEPS = 20


def speed(**options: float) -> dict:
    return node("CogVideoXSpeed", **{"model": ["model", 0], "cache_budget": 0.0, "teacache": 0.0} | options)


def accelerated(graph: Graph, **options: float) -> Graph:
    """The graph with CogVideoX Speed before whatever samples."""
    options = {"guidance_until": 1.0} | options
    for name in ("sampler", "guider"):
        if name in graph and "model" in graph[name]["inputs"]:
            graph[name]["inputs"]["model"] = ["speed", 0]
    return graph | {"speed": speed(**options)}


def run(host: Host, graph: Graph) -> tuple[torch.Tensor, list[float]]:
    """The latent, and of each sampling run how many steps it computed."""
    before = len(host.log_text())
    latent = saved_latent(host, host.run(graph))
    return latent, [
        float(number) for number in re.findall(r"(\S+) of \d+ steps were computed", host.log_text()[before:])
    ]


@pytest.mark.parametrize(
    ("kind", "options", "rule", "dynamic"),
    [
        ("CogVideoX-2B", {"cache_budget": 0.3}, "ddim", "off"),
        ("CogVideoX-5B", {"cache_budget": 0.3}, "dpm++ 2m sde", "published"),
        ("CogVideoX-5B", {"teacache": 1.0}, "ddim", "off"),
        ("CogVideoX-5B", {"guidance_until": 0.5}, "ddim", "off"),
        ("CogVideoX1.5-5B", {"cache_budget": 0.2, "guidance_until": 0.7}, "dpm++ 2m sde", "off"),
    ],
)
def test_the_node_gives_what_the_core_gives(
    host: Host, core: Core, kind: str, options: dict, rule: str, dynamic: str
) -> None:
    graph = text_to_video(kind, steps=STEPS, sampler=rule, dynamic_cfg=dynamic)
    latent, (computed,) = run(host, accelerated(graph, **options))
    asked = {"sampler": {"ddim": "ddim"}.get(rule, "dpm"), "use_dynamic_cfg": dynamic != "off"}
    pipeline = core(kind)
    clips = []
    counting = pipeline.transformer.register_forward_pre_hook(lambda module, given: clips.append(len(given[0])))
    expected = run_core(pipeline, num_inference_steps=STEPS, **asked, **options)
    counting.remove()
    assert_parity(latent, expected, 5e-4, f"{kind}, {options}, {rule}")  # the host's first a(t) is not quite 0
    assert computed == sum(clips) / 2
    if "teacache" not in options:  # the time embedding of random weights changes too much for it
        assert computed < STEPS


def test_all_off_is_no_node(host: Host, toys: dict) -> None:
    graph = text_to_video("CogVideoX-5B")
    without, _ = run(host, graph)
    latent, runs = run(host, accelerated(graph))
    assert torch.equal(latent, without)
    assert runs == []


@pytest.mark.parametrize("kind", ["CogVideoX-5B", "CogVideoX1.5-5B"])
def test_native_ksampler_predicts_what_the_core_predicts(host: Host, core: Core, kind: str) -> None:
    graph = text_to_video(kind)
    graph["sampler"] = ksampler()
    latent, (computed,) = run(host, accelerated(graph, cache_budget=0.3))
    noise = host_noise(core(kind))
    expected = run_core(core(kind), num_inference_steps=10, latents=noise, cache_budget=0.3)
    assert_parity(latent, expected, 1e-3, f"{kind}, KSampler euler simple")
    assert computed < 10


def test_custom_sampling_predicts_what_the_core_predicts(host: Host, core: Core) -> None:
    kind = "CogVideoX-5B"
    graph = custom_sampling(kind, rule="dpm++ 2m sde", steps=STEPS)
    latent, (computed,) = run(host, accelerated(graph, cache_budget=0.3))
    noise = host_noise(core(kind))
    generator = torch.Generator().manual_seed(SEED)
    draw_latents(noise.shape, generator, torch.device("cpu"), torch.float32)  # the place of the initial noise
    asked = {"sampler": "dpm", "num_inference_steps": STEPS, "latents": noise, "generator": generator}
    expected = run_core(core(kind), **asked, cache_budget=0.3)
    assert_parity(latent, expected, 1e-3, f"{kind}, SamplerCustomAdvanced")
    assert computed < STEPS


def test_each_stage_and_each_seed_is_a_run_of_its_own(host: Host, toys: dict) -> None:
    graph = accelerated(custom_sampling("CogVideoX-5B", steps=STEPS), cache_budget=0.3)
    first, (computed,) = run(host, graph)
    _, runs = run(host, graph | two_stages(10))
    assert len(runs) == 2
    assert all(number <= 10 for number in runs)
    graph["noise"] = node("RandomNoise", noise_seed=SEED + 1)
    other, _ = run(host, graph)
    assert not torch.equal(other, first)
    host.post("/free", {"free_memory": True})  # or the host would show what it remembers
    graph["noise"] = node("RandomNoise", noise_seed=SEED)
    again, (number,) = run(host, graph)
    assert torch.equal(again, first)
    assert number == computed


def test_a_run_that_fails_leaves_nothing_behind(host: Host, toys: dict) -> None:
    graph = custom_sampling("CogVideoX-5B", steps=5)
    exact, _ = run(host, graph)
    failing = accelerated(custom_sampling("CogVideoX-5B", steps=5), cache_budget=0.3)
    failing["sigmas"] = node("BasicScheduler", model=["model", 0], scheduler="karras", steps=20, denoise=1.0)
    with pytest.raises(ExecutionFailed, match="sigmas that stand still or rise"):
        host.run(failing)
    host.post("/free", {"free_memory": True})
    again, runs = run(host, graph)
    assert torch.equal(again, exact)
    assert runs == []


@pytest.mark.parametrize("name", ["heun", "dpmpp_2m_sde"])
def test_any_native_sampler_runs_with_it(host: Host, toys: dict, name: str) -> None:
    graph = text_to_video("CogVideoX-5B")
    graph["sampler"] = ksampler()
    graph["sampler"]["inputs"]["sampler_name"] = name
    latent, (computed,) = run(host, accelerated(graph, cache_budget=0.5))
    assert latent.isfinite().all()
    assert computed <= 10


def test_a_run_without_guidance_is_predicted_too(host: Host, core: Core) -> None:
    kind = "CogVideoX-5B"
    graph = accelerated(text_to_video(kind, steps=STEPS, cfg=1.0), cache_budget=0.3, guidance_until=0.5)
    latent, (computed,) = run(host, graph)
    expected = run_core(core(kind), num_inference_steps=STEPS, guidance_scale=1.0, cache_budget=0.3)
    assert_parity(latent, expected, 1e-3, "no guidance")
    assert computed < STEPS


def test_two_nodes_in_a_row_are_the_second(host: Host, toys: dict) -> None:
    graph = accelerated(text_to_video("CogVideoX-5B", steps=STEPS), cache_budget=0.3)
    wanted, _ = run(host, graph)
    graph["again"] = graph["speed"]
    graph["speed"] = speed(guidance_until=0.3)
    graph["again"]["inputs"]["model"] = ["speed", 0]
    graph["sampler"]["inputs"]["model"] = ["again", 0]
    latent, runs = run(host, graph)
    assert len(runs) == 1
    assert torch.equal(latent, wanted)


def test_the_negative_conditioning_is_left_out_and_its_time_saved(pack: ModuleType, toys: dict) -> None:
    names = (f"{pack.__name__}.nodes.host.{name}" for name in ("features.speed", "types.model"))
    approximation, host_model = map(importlib.import_module, names)
    patcher = host_model.load_model(toys["CogVideoX-5B"] / "transformer")
    sigmas = torch.cat([patcher.model.model_sampling.sigmas[[999, 749, 499, 249]], torch.zeros(1)])
    asked = []

    def ask(question: dict) -> list[torch.Tensor]:
        asked.append(question["conds"])
        return [torch.ones(1, 16, 5, 8, 12), torch.zeros(1, 16, 5, 8, 12)]

    half = approximation.Approximation(guidance_until=0.5)
    answers = approximation._Answers(half, sigmas, 6.0, ask)
    for sigma in sigmas[:-1]:
        x = torch.ones(1, 16, 5, 8, 12) * sigma
        question = {"model": patcher.model, "conds": ["positive", "negative"], "input": x, "sigma": sigma[None]}
        assert len(answers(question)) == 2
    assert asked == [["positive", "negative"]] * 2 + [["positive", None]] * 2


def test_both_rules_at_once_are_refused(host: Host, toys: dict) -> None:
    graph = accelerated(text_to_video("CogVideoX-5B"), cache_budget=0.3, teacache=0.1)
    with pytest.raises(ExecutionFailed, match="both decide which steps are computed; set one of them to 0"):
        host.run(graph)


@pytest.mark.parametrize("chosen", ["ours", "ksampler"])
def test_native_easycache_skips_steps_of_the_demo_model(host: Host, chosen: str) -> None:
    graph = text_to_video("demo/text-to-video", steps=16, cfg=3.0)
    graph["vae"]["inputs"]["vae_name"] = graph["t5"]["inputs"]["text_encoder_name"] = "demo"
    if chosen == "ksampler":
        graph["sampler"] = ksampler()
        graph["sampler"]["inputs"] |= {"steps": 16, "cfg": 3.0}
    exact, _ = run(host, graph)
    graph["easy"] = node(
        "EasyCache", model=["model", 0], reuse_threshold=0.1, start_percent=0.15, end_percent=0.95, verbose=False
    )
    graph["sampler"]["inputs"]["model"] = ["easy", 0]
    before = len(host.log_text())
    latent, _ = run(host, graph)
    (skipped,) = re.findall(r"EasyCache - skipped (\d+)/16 steps", host.log_text()[before:])
    decibels = snr_db(latent, exact)
    print(f"EasyCache 0.1, {chosen}: {skipped} of 16 steps skipped, {decibels:.1f} dB")
    assert int(skipped) >= 1
    assert decibels >= 20


# ---- what the node says of itself

SHARE_AND_DB = re.compile(r"(\d+) %\D*?(?:PSNR\D*)?(\d+) dB")
MEASURED_ROW = re.compile(
    r"^\| the demo model, 50 steps of \w+ \| [^|]+ \| (0\.\d+) \| [^|]+ \| (\d+) \(", re.MULTILINE
)


def test_the_figures_in_its_tooltips_are_those_of_the_benchmark(host: Host) -> None:
    """The share of work that is done, or saved, and decibels, in both languages."""
    page = (provision.REPO / "docs" / "approximations.md").read_text(encoding="utf-8")
    measured = {(round(100 * float(work)), int(db)) for work, db in MEASURED_ROW.findall(page)}
    measured |= {(100 - work, db) for work, db in measured}
    english = host.object_info("CogVideoXSpeed")["input"]["required"]
    chinese = locale("zh")["CogVideoXSpeed"]["inputs"]
    for name, count in (("cache_budget", 5), ("teacache", 2), ("guidance_until", 2)):
        for tooltip in (english[name][1]["tooltip"], chinese[name]["tooltip"]):
            told = {(int(work), int(db)) for work, db in SHARE_AND_DB.findall(tooltip)}
            assert len(told) == count, tooltip
            assert told <= measured
