"""Sampling in the real host against the core, which test_pipeline.py ties to diffusers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from checkpoints import OFFICIAL
from graphs import (
    HEIGHT,
    LENGTH,
    NEGATIVE,
    PROMPT,
    WIDTH,
    image_to_video,
    node,
    sampler,
    saved_latent,
    saved_tensor,
    text_to_video,
)
from host import Host
from parity import assert_parity

from cogvideox_core import CogVideoXPipeline, latent_size
from cogvideox_core.noise import draw_latents

Core = Callable[[str], CogVideoXPipeline]

TEXT_TO_VIDEO = [kind for kind in OFFICIAL if not kind.endswith("I2V")]
IMAGE_TO_VIDEO = [kind for kind in OFFICIAL if kind.endswith("I2V")]
SEED, STEPS = 7, 4


def run_core(pipeline: CogVideoXPipeline, **options) -> torch.Tensor:
    """z of the clip [B, 16, T, h, w], from the core, with the settings of graphs.py."""
    settings = {
        "prompt": PROMPT,
        "negative_prompt": NEGATIVE,
        "height": HEIGHT,
        "width": WIDTH,
        "num_frames": LENGTH,
        "num_inference_steps": STEPS,
        "generator": torch.Generator().manual_seed(SEED),
        "sample_posterior": False,
        **options,
    }
    latents = pipeline(**settings, output_type="latent")
    size = latent_size(pipeline.check(**settings), pipeline.transformer.config, pipeline.variant)
    return latents[:, :, size.leading :] / pipeline.variant.vae.scaling_factor


@pytest.mark.parametrize("kind", TEXT_TO_VIDEO)
@pytest.mark.parametrize(("rule", "core_rule"), [("ddim", "ddim"), ("dpm++ 2m sde", "dpm")])
def test_sampler_gives_what_the_core_gives(host: Host, core: Core, kind: str, rule: str, core_rule: str) -> None:
    latent = saved_latent(host, host.run(text_to_video(kind, sampler=rule)))
    assert_parity(latent, run_core(core(kind), sampler=core_rule), 1e-5, f"{kind} {rule} in the host")


@pytest.mark.parametrize("choice", ["published", "by step"])
@pytest.mark.parametrize(("rule", "core_rule"), [("ddim", "ddim"), ("dpm++ 2m sde", "dpm")])
def test_dynamic_cfg_gives_what_the_core_gives(host: Host, core: Core, choice: str, rule: str, core_rule: str) -> None:
    kind = "CogVideoX-5B"
    latent = saved_latent(host, host.run(text_to_video(kind, sampler=rule, dynamic_cfg=choice)))
    by = {"published": "timestep", "by step": "step"}[choice]
    expected = run_core(core(kind), sampler=core_rule, use_dynamic_cfg=True, dynamic_cfg_by=by)
    assert_parity(latent, expected, 1e-5, f"{choice} dynamic cfg, {rule}, in the host")


@pytest.mark.parametrize("kind", IMAGE_TO_VIDEO)
@pytest.mark.parametrize("last", [None, "last.png"])
def test_image_to_video_gives_what_the_core_gives(
    host: Host, core: Core, pictures: dict, kind: str, last: str | None
) -> None:
    latent = saved_latent(host, host.run(image_to_video(kind, "first.png", last, sampler="dpm++ 2m sde")))
    images = {"image": pictures["first.png"], "last_image": pictures.get(last)}
    assert_parity(latent, run_core(core(kind), sampler="dpm", **images), 1e-5, f"{kind} in the host, last={last}")


@pytest.mark.parametrize("kind", ["CogVideoX-2B", "CogVideoX1.5-5B"])
def test_video_to_video_gives_what_the_core_gives(host: Host, core: Core, pictures: dict, kind: str) -> None:
    graph = text_to_video(kind, denoise=0.5)
    graph["image"] = node("LoadImage", image="first.png")
    graph["frames"] = node("RepeatImageBatch", image=["image", 0], amount=LENGTH)
    graph["latent"] = node("CogVideoXVAEEncode", pixels=["frames", 0], vae=["vae", 0], tiling="off")
    latent = saved_latent(host, host.run(graph))
    expected = run_core(core(kind), video=[pictures["first.png"]] * LENGTH, strength=0.5)
    assert_parity(latent, expected, 1e-5, f"{kind} video to video in the host")


@pytest.mark.parametrize("kind", TEXT_TO_VIDEO)
def test_native_ksampler_follows_the_official_ddim(host: Host, core: Core, kind: str) -> None:
    graph = text_to_video(kind)
    graph["sampler"] = ksampler()
    latent = saved_latent(host, host.run(graph))
    expected = run_core(core(kind), num_inference_steps=10, latents=host_noise(core(kind)))
    assert_parity(latent, expected, 5e-4, f"{kind}, KSampler euler simple")


def test_native_custom_sampling_with_our_sigmas_and_sampler_is_the_official_run(host: Host, core: Core) -> None:
    for kind, steps in (("CogVideoX-5B", 7), ("CogVideoX1.5-5B", 4)):
        graph = text_to_video(kind)
        graph |= {
            "noise": node("RandomNoise", noise_seed=SEED),
            "guider": node(
                "CFGGuider", model=["model", 0], positive=["positive", 0], negative=["negative", 0], cfg=6.0
            ),
            "rule": node("CogVideoXSamplerSelect", sampler="dpm++ 2m sde", dynamic_cfg="off"),
            "sigmas": node("CogVideoXScheduler", model=["model", 0], steps=steps, denoise=1.0),
            "sampler": node(
                "SamplerCustomAdvanced",
                noise=["noise", 0],
                guider=["guider", 0],
                sampler=["rule", 0],
                sigmas=["sigmas", 0],
                latent_image=["latent", 0],
            ),
        }
        latent = saved_latent(host, host.run(graph))
        noise = host_noise(core(kind))
        generator = torch.Generator().manual_seed(SEED)
        draw_latents(noise.shape, generator, torch.device("cpu"), torch.float32)  # the place of the initial noise
        expected = run_core(core(kind), sampler="dpm", num_inference_steps=steps, latents=noise, generator=generator)
        assert_parity(latent, expected, 1e-5, f"{kind}, SamplerCustomAdvanced with {steps} steps")


def test_a_partly_loaded_model_gives_the_same_frames(host: Host, toys: dict) -> None:
    graph = text_to_video("CogVideoX-5B")
    graph |= {
        "decode": node("VAEDecode", samples=["sampler", 0], vae=["vae", 0]),
        "frames": node("ProbeSaveImages", images=["decode", 0], name="whole"),
    }
    whole = saved_tensor(host.run(graph), "frames")
    host.post("/free", {"unload_models": True, "free_memory": True})  # a model that is loaded whole stays so
    graph["partial"] = node("ProbePartialLoad", model=["model", 0], loaded_bytes=200_000)
    graph["sampler"]["inputs"]["model"] = ["partial", 0]
    graph["frames"]["inputs"]["name"] = "partial"
    graph["streamed"] = node("ProbeStreamedModules", model=["partial", 0], after=["sampler", 0])
    history = host.run(graph)
    assert len(history.outputs["streamed"]["streamed"]) > 10, "nothing streamed: the model was loaded whole"
    assert torch.equal(saved_tensor(history, "frames"), whole)


def test_a_batch_holds_different_videos(host: Host, toys: dict) -> None:
    graph = text_to_video("CogVideoX-5B")
    graph["latent"]["inputs"]["batch_size"] = 2
    latent = saved_latent(host, host.run(graph))
    assert latent.shape[0] == 2
    assert not torch.allclose(latent[0], latent[1])


def test_a_saved_model_loads_again_and_samples_the_same(host: Host, toys: dict) -> None:
    graph = text_to_video("CogVideoX1.5-5B")
    graph["saved"] = node("ModelSave", model=["model", 0], filename_prefix="models/again")
    first = saved_latent(host, host.run(graph))
    (file,) = host.output_path("models").glob("again*.safetensors")
    host.add_model("diffusion_models", file, "again.safetensors")
    graph["model"] = node("CogVideoXLoadModel", model_name="again.safetensors")
    del graph["saved"]
    assert torch.equal(saved_latent(host, host.run(graph)), first)


def test_progress_is_reported_step_by_step(host: Host, toys: dict) -> None:
    with host.events() as events:
        host.run(text_to_video("CogVideoX-5B", seed=99), client_id=events.client_id)
        states = [data["nodes"].get("sampler", {}) for data in events.of_type("progress_state")]
    seen = [(state["value"], state["max"]) for state in states if "value" in state]
    assert [(step, STEPS) for step in range(1, STEPS + 1)] == [state for state in dict.fromkeys(seen) if state[0] > 0]


def ksampler() -> dict:
    inputs = sampler()["inputs"]
    kept = {name: inputs[name] for name in ("model", "positive", "negative", "latent_image", "seed", "cfg", "denoise")}
    return node("KSampler", **kept, steps=10, sampler_name="euler", scheduler="simple")


def host_noise(pipeline: CogVideoXPipeline) -> torch.Tensor:
    """The noise of ComfyUI's own nodes for SEED, with what our model puts in front of it for whole patches."""
    size = latent_size(
        pipeline.check("", height=HEIGHT, width=WIDTH, num_frames=LENGTH), pipeline.transformer.config, pipeline.variant
    )
    clip = torch.randn(size.without_leading().shape(1, 16), generator=torch.Generator().manual_seed(SEED))
    leading = torch.randn(
        1, 16, size.leading, size.height, size.width, generator=torch.Generator().manual_seed(SEED + 1)
    )
    return torch.cat([leading, clip], dim=2)
