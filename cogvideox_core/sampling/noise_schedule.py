"""How noisy each timestep is, and which timesteps a run visits.

a(t), in code `alpha`, is the cumulative alpha after the SNR shift and the zero-terminal-SNR rescale, in that order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..models.config import ScheduleConfig


@dataclass(frozen=True)
class Step:
    """One step of a run, from `timestep` to `previous` (below 0: to the clean video).

    `alpha`, `alpha_previous`, `alpha_back` are a(t) here, at `previous`, and at the timestep of the step before this
    one (None on the first step of a run).
    """

    timestep: int
    previous: int
    alpha: float
    alpha_previous: float
    alpha_back: float | None


class NoiseSchedule:
    """The table a(t) of a model and the timesteps ("trailing") of a run.

    Source: diffusers `CogVideoXDDIMScheduler`; SNR shift and zero terminal SNR of arXiv 2408.06072 section 2.3.
    """

    def __init__(self, config: ScheduleConfig) -> None:
        self.config = config
        betas = (
            torch.linspace(
                config.beta_start**0.5, config.beta_end**0.5, config.num_train_timesteps, dtype=torch.float64
            )
            ** 2
        )
        alphas = torch.cumprod(1.0 - betas, dim=0)
        shift = config.snr_shift_scale
        self.alphas_cumprod: Tensor = _zero_terminal_snr(alphas / (shift + (1 - shift) * alphas))  # [1000] float64

    def timesteps(self, num_inference_steps: int) -> list[int]:
        """Trailing timesteps, highest first; 50 steps: 999, 979, ..., 19.

        For a few counts (61, 103, ...) diffusers' rounding appends a timestep of -1, which is no timestep; it is
        left out here.

        Raises: ValueError unless 1 <= num_inference_steps <= num_train_timesteps.
        """
        total = self.config.num_train_timesteps
        if not 1 <= num_inference_steps <= total:
            raise ValueError(f"num_inference_steps={num_inference_steps}; a run takes 1 to {total} steps")
        stride = total / num_inference_steps
        count = math.ceil(total / stride)
        delta = (total - stride) - total  # the increment numpy.arange works with, to the last bit
        timesteps = [round(total + index * delta) - 1 for index in range(count)]
        return [timestep for timestep in timesteps if timestep >= 0]

    def steps(self, num_inference_steps: int, strength: float = 1.0) -> list[Step]:
        """The steps of a run; `strength` below 1 keeps that last part of them (video-to-video).

        A step leads to `timestep - 1000 // N`, as in the reference, not to the next timestep of the list.

        Raises: ValueError for a step count out of range or a strength that leaves no step.
        """
        timesteps = self.timesteps(num_inference_steps)
        kept = min(int(num_inference_steps * strength), num_inference_steps)
        if not 0.0 < strength <= 1.0 or kept < 1:
            raise ValueError(
                f"strength={strength} leaves {max(kept, 0)} of {num_inference_steps} steps; it must be above 0 "
                "and at most 1, and strength times steps must reach 1"
            )
        timesteps = timesteps[num_inference_steps - kept :]
        stride = self.config.num_train_timesteps // num_inference_steps
        return self.steps_between(timesteps, [timestep - stride for timestep in timesteps])

    def steps_between(self, timesteps: Sequence[int], following: Sequence[int]) -> list[Step]:
        """Steps from each of `timesteps` to the one at the same index of `following` (below 0: to the clean video)."""
        steps = []
        alpha_back = None
        for timestep, after in zip(timesteps, following, strict=True):
            alpha = self.alpha(timestep)
            steps.append(Step(timestep, after, alpha, self.alpha(after), alpha_back))
            alpha_back = alpha
        return steps

    def alpha(self, timestep: int) -> float:
        """a(t); 1 below 0, where nothing is left but the video."""
        return float(self.alphas_cumprod[timestep]) if timestep >= 0 else 1.0

    def add_noise(self, latents: Tensor, noise: Tensor, timestep: int) -> Tensor:
        """Clean latents [B, C, T, H, W] with noise of the same shape, mixed as they are at `timestep`."""
        alpha = self.alpha(timestep)
        return math.sqrt(alpha) * latents + math.sqrt(1 - alpha) * noise


def predict_x0(latents: Tensor, v_pred: Tensor, alpha: float) -> Tensor:
    """The clean latents that a predicted v implies; latents, v_pred and result [B, C, T, H, W]."""
    return math.sqrt(alpha) * latents - math.sqrt(1 - alpha) * v_pred


def _zero_terminal_snr(alphas: Tensor) -> Tensor:
    """Move the last a to 0 and keep the first, linearly in sqrt(a) (arXiv 2305.08891, algorithm 1)."""
    roots = alphas.sqrt()
    first, last = roots[0], roots[-1]
    return ((roots - last) * (first / (first - last))) ** 2
