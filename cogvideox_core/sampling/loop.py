"""The denoising loop, the same for the command line, Python and a host such as ComfyUI."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor

from .noise_schedule import Step
from .samplers import Sampler


class Predictor(Protocol):
    """Predicts clean latents: a transformer with its conditions and guidance, or a host's model."""

    def __call__(self, latents: Tensor, step: Step, index: int) -> Tensor:
        """Guided x0 [B, C, T, H, W] from latents [B, C, T, H, W] at step `index` of the run; both float32."""
        ...


def denoise(
    predict: Predictor,
    latents: Tensor,
    steps: Sequence[Step],
    sampler: Sampler,
    on_step: Callable[[int, Tensor, Tensor], None] = lambda index, x0, latents: None,
) -> Tensor:
    """Noise to clean latents.

    Args:
        predict: the model.
        latents: [B, C, T, H, W], float32; noise, or a noised video at the first step's timestep.
        sampler: a new one, for this run alone.
        on_step: called after each step with its index, the predicted x0 and the new latents; may raise to interrupt.
    Returns: [B, C, T, H, W], float32.
    """
    for index, step in enumerate(steps):
        x0 = predict(latents, step, index)
        latents = sampler.step(latents, x0, step)
        on_step(index, x0, latents)
    return latents
