"""Sampling in the real host against the core, which test_pipeline.py ties to diffusers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from cogvideox_core import CogVideoXPipeline
from cogvideox_core.models.noise import draw_latents
from tests.support.checkpoints import OFFICIAL
from tests.support.core_runs import host_noise, run_core
from tests.support.graphs import (
    HEIGHT,
    LENGTH,
    SEED,
    WIDTH,
    custom_sampling,
    image_to_video,
    ksampler,
    node,
    save_latent,
    saved_latent,
    saved_tensor,
    text_to_video,
    two_stages,
)
from tests.support.host import ExecutionFailed, Host
from tests.support.parity import assert_parity

Core = Callable[[str], CogVideoXPipeline]

TEXT_TO_VIDEO = [kind for kind in OFFICIAL if not kind.endswith("I2V")]
IMAGE_TO_VIDEO = [kind for kind in OFFICIAL if kind.endswith("I2V")]


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
    graph["latent"] = node("CogVideoXVAEEncode", pixels=["frames", 0], vae=["vae", 0], tiling="exact")
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
        graph = custom_sampling(kind, rule="dpm++ 2m sde", steps=steps)
        latent = saved_latent(host, host.run(graph))
        noise = host_noise(core(kind))
        generator = torch.Generator().manual_seed(SEED)
        draw_latents(noise.shape, generator, torch.device("cpu"), torch.float32)  # the place of the initial noise
        expected = run_core(core(kind), sampler="dpm", num_inference_steps=steps, latents=noise, generator=generator)
        assert_parity(latent, expected, 1e-5, f"{kind}, SamplerCustomAdvanced with {steps} steps")


def test_comfyuis_own_compile_node_works_on_our_model(host: Host, core: Core) -> None:
    kind = "CogVideoX-5B"
    graph = text_to_video(kind, model=["compiled", 0])
    graph["compiled"] = node("TorchCompileModel", model=["model", 0], backend="inductor")
    latent = saved_latent(host, host.run(graph, timeout=400))
    assert_parity(latent, run_core(core(kind)), 1e-5, f"{kind}, compiled by TorchCompileModel")


@pytest.mark.parametrize("steps", [7, 10])
@pytest.mark.parametrize("at", [1, 3, 6])
def test_two_stages_give_what_one_run_gives(host: Host, toys: dict, steps: int, at: int) -> None:
    graph = custom_sampling("CogVideoX-5B", steps=steps)
    whole = saved_latent(host, host.run(graph))
    graph |= two_stages(at)
    assert_parity(saved_latent(host, host.run(graph)), whole, 1e-4, f"{steps} steps split at {at}")


@pytest.mark.parametrize("kind", ["CogVideoX-5B", "CogVideoX1.5-5B"])
@pytest.mark.parametrize("at", [0, 10])
def test_a_stage_without_steps_changes_nothing(host: Host, toys: dict, kind: str, at: int) -> None:
    graph = custom_sampling(kind)
    whole = saved_latent(host, host.run(graph))
    graph |= two_stages(at)
    result = saved_latent(host, host.run(graph))
    if kind == "CogVideoX-5B" or at == 10:  # 1.5 starts its leading frame anew in a second stage
        assert_parity(result, whole, 1e-4, f"{kind} split at {at}")
    assert result.isfinite().all()


def test_sigmas_that_stand_still_are_refused(host: Host, toys: dict) -> None:
    graph = custom_sampling("CogVideoX-5B", rule="dpm++ 2m sde")
    graph["sigmas"] = node("BasicScheduler", model=["model", 0], scheduler="karras", steps=20, denoise=1.0)
    with pytest.raises(ExecutionFailed, match="sigmas that stand still or rise .* take them from CogVideoX Scheduler"):
        host.run(graph)


@pytest.mark.parametrize("kind", ["CogVideoX-5B", "CogVideoX1.5-5B"])
def test_what_a_mask_protects_stays(host: Host, toys: dict, pictures: dict, kind: str) -> None:
    graph = text_to_video(kind)
    graph |= {
        "image": node("LoadImage", image="first.png"),
        "frames": node("RepeatImageBatch", image=["image", 0], amount=LENGTH),
        "encoded": node("CogVideoXVAEEncode", pixels=["frames", 0], vae=["vae", 0], tiling="exact"),
        "open": node("SolidMask", value=1.0, width=WIDTH, height=HEIGHT),
        "shut": node("SolidMask", value=0.0, width=WIDTH, height=HEIGHT),
        "left": node(
            "MaskComposite", destination=["open", 0], source=["shut", 0], x=WIDTH // 2, y=0, operation="multiply"
        ),
        "latent": node("SetLatentNoiseMask", samples=["encoded", 0], mask=["left", 0]),
        "source": save_latent("encoded"),
    }
    history = host.run(graph)
    source, result = saved_latent(host, history, "source"), saved_latent(host, history)
    half = WIDTH // 16
    assert_parity(result[..., half:], source[..., half:], 1e-4, f"{kind}, the protected half")
    assert (result[..., :half] - source[..., :half]).abs().mean() > 0.1


def test_the_largest_seed_runs_on_a_model_with_leading_frames(host: Host, toys: dict) -> None:
    graph = text_to_video("CogVideoX1.5-5B")
    graph["sampler"] = ksampler()
    graph["sampler"]["inputs"] |= {"seed": 2**64 - 1, "steps": 1}
    assert saved_latent(host, host.run(graph)).isfinite().all()


def test_dynamic_cfg_beside_another_cfg_function_is_refused(host: Host, toys: dict) -> None:
    graph = text_to_video("CogVideoX-5B", dynamic_cfg="published", model=["rescaled", 0])
    graph["rescaled"] = node("RescaleCFG", model=["model", 0], multiplier=0.7)
    with pytest.raises(ExecutionFailed, match="dynamic cfg on a MODEL that has a cfg function of its own"):
        host.run(graph)


def test_a_partly_loaded_model_gives_the_same_frames(host: Host, toys: dict) -> None:
    graph = text_to_video("CogVideoX-5B")
    graph |= {
        "decode": node("VAEDecode", samples=["sampler", 0], vae=["vae", 0]),
        "frames": node("ProbeSaveImages", images=["decode", 0], name="whole"),
    }
    whole = saved_tensor(host.run(graph), "frames")
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


def test_progress_is_reported_while_sampling(host: Host, toys: dict) -> None:
    with host.events() as events:
        host.run(text_to_video("CogVideoX-5B", seed=99, steps=20), client_id=events.client_id)
        states = [data["nodes"].get("sampler", {}) for data in events.of_type("progress_state")]
    seen = [state["value"] for state in states if state.get("max") == 20]
    assert len(set(seen)) > 2, "the host thins out updates, but not all of them"
    assert seen == sorted(seen)
    assert seen[-1] == 20
