"""The official way to sample: sigmas, noise in the reference's order, and the whole run of CogVideoX Sampler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.sample
import comfy.utils
import latent_preview
import torch
from torch import Tensor

from ....cogvideox_core.models.noise import draw_latents
from ....cogvideox_core.models.variants import SamplerName
from ....cogvideox_core.sampling.guidance import DynamicBy
from .model import POSITION_TABLE, CogVideoXModel, cogvideox_model, given_beside
from .model_sampling import check_official, official_table
from .sampler import OfficialSampler


@dataclass(frozen=True)
class SamplerSettings:
    """What CogVideoX Sampler is set to. `denoise` is the share of the video that is made from noise, 0 to 1."""

    seed: int
    steps: int
    cfg: float
    sampler: SamplerName
    dynamic_by: DynamicBy | None
    denoise: float


def sample_official(model: Any, positive: list, negative: list, latent: dict, settings: SamplerSettings) -> dict:
    """A LATENT sampled as the reference does, from CONDITIONINGs and a LATENT [B, C, T, h, w].

    Raises: ValueError if the MODEL is not ours, or latent and conditioning do not fit it.
    """
    rules = cogvideox_model(model)
    samples: Tensor = latent["samples"]
    _check(rules, samples, [*positive, *negative])
    sigmas = official_sigmas(model, settings.steps, settings.denoise)
    leading = -samples.shape[2] % rules.config.frame_patch
    noise = _noise(rules, samples, leading, settings.seed)
    samples = comfy.sample.sample_custom(
        model,
        noise[:, :, leading:],
        settings.cfg,
        OfficialSampler(settings.sampler, settings.dynamic_by, leading_noise=noise[:, :, :leading]),
        sigmas,
        positive,
        negative,
        samples,
        noise_mask=latent.get("noise_mask"),
        callback=latent_preview.prepare_callback(model, len(sigmas) - 1),
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=settings.seed,
    )
    return {**latent, "samples": samples}


def official_sigmas(model: Any, steps: int, denoise: float) -> Tensor:
    """Sigmas [steps + 1] of a MODEL's official run, with the closing 0; its last part where denoise is below 1.

    Raises: ValueError if the MODEL is not ours or has another noise schedule, or for a denoise that leaves no step.
    """
    rules = cogvideox_model(model)
    check_official(model.get_model_object("model_sampling"), rules.schedule, rules.variant.name)
    timesteps = [step.timestep for step in rules.schedule.steps(steps, denoise)]
    return torch.cat([official_table(rules.schedule).float()[timesteps], torch.zeros(1)])


def _check(rules: CogVideoXModel, samples: Tensor, conditionings: list) -> None:
    """Raises: ValueError if they do not fit the model."""
    for embeds, values in conditionings:
        rules.check_latents(samples.shape, values.get(POSITION_TABLE, "trained"))
        rules.check_conditioning(embeds, given_beside(values))


def _noise(rules: CogVideoXModel, like: Tensor, leading: int, seed: int) -> Tensor:
    """Noise [B, C, leading + T, h, w] from the seed, drawn in one piece and the model's dtype, as in the reference."""
    batch, channels, frames, *sides = like.shape
    shape = (batch, channels, leading + frames, *sides)
    generator = torch.Generator().manual_seed(seed)
    return draw_latents(shape, generator, torch.device("cpu"), rules.get_dtype_inference()).float()
