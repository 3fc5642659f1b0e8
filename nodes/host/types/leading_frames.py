"""Whole patches in time: CogVideoX1.5 folds two latent frames into a token, and a clip has an odd number of them.

The official code puts one latent frame in front, denoises it along and drops it. Here this happens inside sampling, so
that a LATENT always holds just the clip and every sampler and VAE node fits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ....cogvideox_core.pipeline.conditioning import pad_leading


def spread_image_latents(z: Tensor, frames: int) -> Tensor:
    """Image latents for a clip with leading frames: the first image moves to the very front, zeros follow it."""
    missing = frames - z.shape[2]
    if missing <= 0:
        return z
    return torch.cat([z[:, :, :1], torch.zeros_like(z[:, :, :1]).expand(-1, -1, missing, -1, -1), z[:, :, 1:]], dim=2)


def pad_to(z: Tensor, frames: int) -> Tensor:
    """Latents of a video for a clip with leading frames: the first frame again, in front."""
    return pad_leading(z, max(0, frames - z.shape[2]))


def pad_sampling(
    executor: Any,
    noise: Tensor,
    latent_image: Tensor,
    sampler: Any,
    sigmas: Tensor,
    denoise_mask: Tensor | None = None,
    callback: Any = None,
    disable_pbar: bool = False,
    seed: int | None = None,
    **kwargs: Any,
) -> Tensor:
    """An OUTER_SAMPLE wrapper: leading frames in front of noise and latent, dropped from the result and previews.

    Their noise is the sampler's, where it brings some, else drawn from the seed. Where no noise is added (a second
    stage), none is added to them.
    """
    config = executor.class_obj.model_patcher.model.diffusion_model.config
    leading = -noise.shape[2] % config.frame_patch if noise.ndim == 5 else 0
    if leading:
        noise = torch.cat([_leading_noise(noise, leading, sampler, seed), noise], dim=2)
        latent_image = pad_leading(latent_image, leading)
        if denoise_mask is not None:
            denoise_mask = pad_leading(denoise_mask, leading)
        if "latent_shapes" in kwargs:
            kwargs["latent_shapes"] = [latent_image.shape]
        callback = _drop_from_previews(callback, leading)
    samples = executor(noise, latent_image, sampler, sigmas, denoise_mask, callback, disable_pbar, seed, **kwargs)
    return samples[:, :, leading:]


def _leading_noise(noise: Tensor, leading: int, sampler: Any, seed: int | None) -> Tensor:
    """Noise [B, C, leading, h, w] to go before `noise`."""
    drawn = getattr(sampler, "leading_noise", None)
    if drawn is not None:
        return drawn.to(noise)
    shape = (*noise.shape[:2], leading, *noise.shape[3:])
    if not noise.any():
        return noise.new_zeros(shape)
    generator = torch.Generator().manual_seed(((seed or 0) + 1) % 2**64)
    return torch.randn(shape, generator=generator, dtype=noise.dtype).to(noise.device)


def _drop_from_previews(callback: Any, leading: int) -> Any:
    if callback is None:
        return None
    return lambda step, x0, x, total: callback(step, x0[:, :, leading:], x[:, :, leading:], total)
