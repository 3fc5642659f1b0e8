"""Whole patches in time: CogVideoX1.5 folds two latent frames into a token, and a clip has an odd number of them.

The official code puts one latent frame in front, denoises it along and drops it. Here this happens inside sampling, so
that a LATENT always holds just the clip and every sampler and VAE node fits.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ....cogvideox_core.pipeline.conditioning import pad_leading
from .sampling_call import Callback, SamplingCall, by_name


def spread_image_latents(z: Tensor, frames: int) -> Tensor:
    """Image latents z [B, C, T, h, w] for a clip with leading frames, [B, C, frames, h, w].

    The first image moves to the very front, zeros follow it.
    """
    missing = frames - z.shape[2]
    if missing <= 0:
        return z
    return torch.cat([z[:, :, :1], torch.zeros_like(z[:, :, :1]).expand(-1, -1, missing, -1, -1), z[:, :, 1:]], dim=2)


def pad_to(z: Tensor, frames: int) -> Tensor:
    """Latents z [B, C, T, h, w] of a video for one with leading frames, [B, C, frames, h, w]: the first repeated."""
    return pad_leading(z, max(0, frames - z.shape[2]))


@by_name
def pad_sampling(executor: Any, call: SamplingCall) -> Tensor:
    """An OUTER_SAMPLE wrapper: leading frames in front of noise and latent, dropped from the result and previews.

    Their noise is the sampler's, where it brings some, else drawn from the seed. Where no noise is added (a second
    stage), none is added to them. Returns: [B, C, T, h, w], with the T of `call.noise`.
    """
    config = executor.class_obj.model_patcher.model.diffusion_model.config
    leading = -call.noise.shape[2] % config.frame_patch if call.noise.ndim == 5 else 0
    if not leading:
        return call.run(executor)
    latent_image = pad_leading(call.latent_image, leading)
    padded = replace(
        call,
        noise=torch.cat([_leading_noise(call, leading), call.noise], dim=2),
        latent_image=latent_image,
        denoise_mask=None if call.denoise_mask is None else pad_leading(call.denoise_mask, leading),
        callback=_drop_from_previews(call.callback, leading),
    )
    if "latent_shapes" in call.more:
        padded = replace(padded, more={**call.more, "latent_shapes": [latent_image.shape]})
    return padded.run(executor)[:, :, leading:]


def _leading_noise(call: SamplingCall, leading: int) -> Tensor:
    """Noise [B, C, leading, h, w] to go before the call's."""
    noise, drawn = call.noise, getattr(call.sampler, "leading_noise", None)
    if drawn is not None:
        return drawn.to(noise)
    shape = (*noise.shape[:2], leading, *noise.shape[3:])
    if not noise.any():
        return noise.new_zeros(shape)
    generator = torch.Generator().manual_seed(((call.seed or 0) + 1) % 2**64)
    return torch.randn(shape, generator=generator, dtype=noise.dtype).to(noise.device)


def _drop_from_previews(callback: Callback | None, leading: int) -> Callback | None:
    if callback is None:
        return None
    return lambda step, x0, x, total: callback(step, x0[:, :, leading:], x[:, :, leading:], total)
