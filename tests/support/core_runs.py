"""Runs of the core with the settings of graphs.py, to hold what the host made against."""

from __future__ import annotations

import torch

from cogvideox_core import CogVideoXPipeline, Request, latent_size
from tests.support.graphs import HEIGHT, LENGTH, NEGATIVE, PROMPT, SEED, WIDTH

STEPS = 4


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
    size = latent_size(pipeline.check(Request(**settings)), pipeline.transformer.config, pipeline.variant)
    return latents[:, :, size.leading :] / pipeline.variant.vae.scaling_factor


def host_noise(pipeline: CogVideoXPipeline) -> torch.Tensor:
    """The noise of ComfyUI's own nodes for SEED, with what our model puts in front of it for whole patches."""
    size = latent_size(
        pipeline.check(Request("", height=HEIGHT, width=WIDTH, num_frames=LENGTH)),
        pipeline.transformer.config,
        pipeline.variant,
    )
    clip = torch.randn(size.without_leading().shape(1, 16), generator=torch.Generator().manual_seed(SEED))
    leading = torch.randn(
        1, 16, size.leading, size.height, size.width, generator=torch.Generator().manual_seed(SEED + 1)
    )
    return torch.cat([leading, clip], dim=2)
