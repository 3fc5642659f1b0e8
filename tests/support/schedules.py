"""diffusers' CogVideoX schedulers with the published settings, as oracles."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import CogVideoXDDIMScheduler, CogVideoXDPMScheduler
from torch import Tensor

from cogvideox_core.models.config import ScheduleConfig
from cogvideox_core.sampling.noise_schedule import NoiseSchedule
from tests.support.checkpoints import OFFICIAL

BOUND = 1e-6
SHIFTS = (1.0, 3.0)
COUNTS = (1, 4, 7, 20, 50)
SHAPE = (1, 16, 3, 4, 6)  # [B, C, T, H, W]


def ours(shift: float) -> NoiseSchedule:
    return NoiseSchedule(ScheduleConfig(snr_shift_scale=shift))


def reference(name: str, shift: float, num_inference_steps: int | None = None) -> Any:
    scheduler_class = {"ddim": CogVideoXDDIMScheduler, "dpm": CogVideoXDPMScheduler}[name]
    scheduler = scheduler_class(**OFFICIAL["CogVideoX-5B"].scheduler | {"snr_shift_scale": shift})
    if num_inference_steps is not None:
        scheduler.set_timesteps(num_inference_steps)
    return scheduler


def frames_first(latents: Tensor) -> Tensor:
    """Between our [B, C, T, H, W] and diffusers' [B, T, C, H, W], either way."""
    return latents.transpose(1, 2)


def seeded(seed: int = 11) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
