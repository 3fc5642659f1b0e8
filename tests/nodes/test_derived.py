"""Models that others made from CogVideoX, in the real host: their conditioning, against diffusers' pipeline."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import CogVideoXDDIMScheduler, CogVideoXFunControlPipeline
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from cogvideox_core import VARIANTS, load_text_encoder
from tests.support.checkpoints import make_checkpoint
from tests.support.graphs import (
    HEIGHT,
    LENGTH,
    NEGATIVE,
    PROMPT,
    SIZE,
    WIDTH,
    Graph,
    loaders,
    node,
    sampler,
    save_latent,
    saved_latent,
)
from tests.support.host import ExecutionFailed, Host
from tests.support.parity import assert_parity, relative_difference

SEED, STEPS, CFG = 7, 4, 6.0
MODELS = {
    "fun-control": ("CogVideoX-5B", 32),
    "fun-2b-control": ("CogVideoX-2B", 32),
    "fun-inpaint": ("CogVideoX-5B", 33),
    "fun-2b-inpaint": ("CogVideoX-2B", 33),
    "void": ("CogVideoX1.5-5B", 48),
}


@pytest.fixture(scope="module")
def derived(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            kind, channels = MODELS[name]
            folder = tmp_path_factory.mktemp("derived") / name
            made[name] = make_checkpoint(folder, kind, transformer=dict(in_channels=channels))
            host.add_model("diffusers", made[name], name)
        return made[name]

    return get


@pytest.fixture(scope="module")
def clip(host: Host, tmp_path_factory: pytest.TempPathFactory) -> list[Image.Image]:
    """Frames, and the same as a picture strip the host can load: frame-00.png and so on."""
    draw = np.random.default_rng(3)
    frames = []
    for index in range(LENGTH):
        frames.append(Image.fromarray(draw.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)))
        path = tmp_path_factory.mktemp("clip") / f"frame-{index:02}.png"
        frames[-1].save(path)
        host.upload_image(path, path.name)
    return frames


def batch(graph: Graph, count: int = LENGTH) -> list:
    """Nodes that load the clip into one IMAGE; the last of them."""
    for index in range(count):
        graph[f"frame{index}"] = node("LoadImage", image=f"frame-{index:02}.png")
    link = ["frame0", 0]
    for index in range(1, count):
        graph[f"batch{index}"] = node("ImageBatch", image1=link, image2=[f"frame{index}", 0])
        link = [f"batch{index}", 0]
    return link


def finished(graph: Graph) -> Graph:
    graph["sampler"] = sampler(positive=["latent", 0], negative=["latent", 1], latent_image=["latent", 2])
    graph["save"] = save_latent()
    return graph


def reference(folder: Path, frames: list[Image.Image] | None, condition: Tensor | None = None) -> Tensor:
    """diffusers' latents [1, 16, T, h, w] over the scale; a `condition` [1, C, T, h, w] replaces the control's."""
    pipeline: Any = CogVideoXFunControlPipeline.from_pretrained(folder)
    pipeline.scheduler = CogVideoXDDIMScheduler.from_config(pipeline.scheduler.config, timestep_spacing="trailing")
    if condition is not None:
        pipeline.prepare_control_latents = lambda *args, **options: (None, condition)
        frames = [Image.new("RGB", (WIDTH, HEIGHT))] * LENGTH
    encode = load_text_encoder(folder)
    latents = pipeline(
        prompt_embeds=encode([PROMPT]),
        negative_prompt_embeds=encode([NEGATIVE]),
        control_video=frames,
        height=HEIGHT,
        width=WIDTH,
        num_inference_steps=STEPS,
        guidance_scale=CFG,
        generator=torch.Generator().manual_seed(SEED),
        output_type="latent",
    ).frames
    return latents.transpose(1, 2) / pipeline.vae.config.scaling_factor


def diffusers_mean(folder: Path, video: Tensor) -> Tensor:
    """The scaled mean of the VAE for [1, 3, F, H, W] in -1 to 1."""
    vae = CogVideoXFunControlPipeline.from_pretrained(folder).vae
    with torch.no_grad():
        return vae.encode(video).latent_dist.mode() * vae.config.scaling_factor


def as_video(frames: list[Image.Image]) -> Tensor:
    pixels = torch.stack([torch.from_numpy(np.asarray(frame)).permute(2, 0, 1) for frame in frames], dim=1)
    return pixels[None].float() / 127.5 - 1


@pytest.mark.parametrize("name", ["fun-control", "fun-2b-control"])
def test_a_control_video_does_what_it_does_in_diffusers(host: Host, derived, clip, name: str) -> None:
    folder = derived(name)
    graph = loaders(name)
    inputs = dict(positive=["positive", 0], negative=["negative", 0], vae=["vae", 0])
    graph["latent"] = node("CogVideoXControl", **inputs, control_video=batch(graph), **SIZE)
    ours = saved_latent(host, host.run(finished(graph)))
    assert_parity(ours, reference(folder, clip), 1e-5, f"{name} in the host")
    graph["latent"]["inputs"]["control_video"] = ["frame0", 0]
    single = saved_latent(host, host.run(graph))
    picture = diffusers_mean(folder, as_video(clip[:1])).expand(-1, -1, 5, -1, -1)
    assert_parity(single, reference(folder, None, picture), 1e-5, f"{name}, an image on all frames")
    assert relative_difference(single, ours) > 0.05


@pytest.mark.parametrize("name", ["fun-inpaint", "fun-2b-inpaint"])
def test_a_masked_video_is_what_the_published_formula_makes_of_it(name: str, host: Host, derived, clip) -> None:
    folder = derived(name)
    mask = torch.zeros(1, 1, LENGTH, HEIGHT, WIDTH)
    mask[:, :, :, :, WIDTH // 2 :] = 1
    known = 1 - mask
    mask_latents = torch.cat(
        [
            F.interpolate(known[:, :, :1], (1, HEIGHT // 8, WIDTH // 8), mode="trilinear"),
            F.interpolate(known[:, :, 1:], (4, HEIGHT // 8, WIDTH // 8), mode="trilinear"),
        ],
        dim=2,
    )
    video = as_video(clip)
    masked = diffusers_mean(folder, torch.where(mask > 0.5, -1.0, video))
    scale = VARIANTS[MODELS[name][0]].vae.scaling_factor
    condition = torch.cat([scale * mask_latents, masked], dim=1)
    ours = saved_latent(host, host.run(inpaint_graph(name, WIDTH // 2)))
    assert_parity(ours, reference(folder, None, condition), 1e-5, f"{name} in the host")


def test_a_video_masked_as_a_whole_gives_zeros(host: Host, derived, clip) -> None:
    folder = derived("fun-inpaint")
    ours = saved_latent(host, host.run(inpaint_graph("fun-inpaint", 0)))
    nothing = torch.zeros(1, 17, 5, HEIGHT // 8, WIDTH // 8)
    assert_parity(ours, reference(folder, None, nothing), 1e-5, "nothing known")


def test_void_takes_a_mask_video(host: Host, derived, clip) -> None:
    derived("void")
    half, whole = (saved_latent(host, host.run(inpaint_graph("void", start))) for start in (WIDTH // 2, 0))
    assert half.isfinite().all() and relative_difference(half, whole) > 0.02


def inpaint_graph(name: str, start: int) -> Graph:
    """White from column `start` on."""
    graph = loaders(name)
    graph["black"] = node("SolidMask", value=0.0, width=WIDTH, height=HEIGHT)
    graph["white"] = node("SolidMask", value=1.0, width=WIDTH, height=HEIGHT)
    mask = node("MaskComposite", destination=["black", 0], source=["white", 0], x=start, y=0, operation="add")
    graph["mask"] = mask
    inputs = dict(model=["model", 0], positive=["positive", 0], negative=["negative", 0], vae=["vae", 0])
    graph["latent"] = node("CogVideoXInpaint", **inputs, video=batch(graph), mask=["mask", 0], **SIZE)
    return finished(graph)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("fun-control", "no control video for CogVideoX-Fun-5B-Control, .*; put CogVideoX Control before the sampler"),
        ("fun-inpaint", "no masked video for CogVideoX-Fun-5B-InP, .*; put CogVideoX Inpaint before the sampler"),
    ],
)
def test_what_is_missing_or_of_another_kind_is_told(host: Host, derived, clip, name: str, told: str) -> None:
    derived(name)
    graph = loaders(name)
    graph["latent"] = node("CogVideoXEmptyLatent", model=["model", 0], **SIZE)
    graph["sampler"], graph["save"] = sampler(), save_latent()
    with pytest.raises(ExecutionFailed) as caught:
        host.run(graph)
    assert re.search(told, str(caught.value)), caught.value
    other = loaders("fun-inpaint")
    derived("fun-inpaint")
    inputs = dict(positive=["positive", 0], negative=["negative", 0], vae=["vae", 0])
    other["latent"] = node("CogVideoXControl", **inputs, control_video=batch(other, 1), **SIZE)
    with pytest.raises(ExecutionFailed, match="a control video for CogVideoX-Fun-5B-InP, which takes a masked video"):
        host.run(finished(other))


@pytest.mark.parametrize("name", ["fun-control", "fun-inpaint"])
def test_a_linked_size_is_checked_when_it_is_known(host: Host, derived, clip, name: str) -> None:
    derived(name)
    if name == "fun-inpaint":
        graph = inpaint_graph(name, 0)
    else:
        graph = loaders(name)
        inputs = dict(positive=["positive", 0], negative=["negative", 0], vae=["vae", 0])
        graph["latent"] = node("CogVideoXControl", **inputs, control_video=batch(graph, 1), **SIZE)
        graph = finished(graph)
    graph["number"] = node("PrimitiveInt", value=100)
    graph["latent"]["inputs"]["width"] = ["number", 0]
    with pytest.raises(ExecutionFailed, match="width=100; CogVideoX takes multiples of 16 up to 4096; use 96"):
        host.run(graph)


def test_a_model_that_takes_no_mask_is_told_at_once(host: Host, derived, clip) -> None:
    derived("fun-control")
    with pytest.raises(ExecutionFailed, match="CogVideoX-Fun-5B-Control takes no mask; give a CogVideoX-Fun InP model"):
        host.run(inpaint_graph("fun-control", 0))
