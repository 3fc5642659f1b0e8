"""The denoising loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .approximation import EXACT, Approximation, approximate
from .attention import Attention
from .guidance import DynamicBy, dynamic_scale, guide
from .modulation import tabulated
from .schedulers import Sampler, Step, check_finite, implied_v, predict_x0
from .transformer import CogVideoXTransformer3D

TABULATED_STEPS = 64
"""Steps whose modulation is computed at once; it takes 3 MB a step in a 5B model."""


@dataclass(frozen=True)
class Guidance:
    """How strongly the prompt is followed. A scale of 1 or less runs without the negative prompt."""

    scale: float = 6.0
    dynamic: bool = False
    dynamic_by: DynamicBy = "timestep"

    @property
    def active(self) -> bool:
        return self.scale > 1.0

    def at(self, step: Step, index: int, count: int) -> float:
        """The scale of step `index` of `count`."""
        if not self.dynamic:
            return self.scale
        return dynamic_scale(
            self.scale, timestep=step.timestep, step_index=index, num_inference_steps=count, by=self.dynamic_by
        )


def denoise(
    transformer: CogVideoXTransformer3D,
    latents: Tensor,
    steps: Sequence[Step],
    sampler: Sampler,
    prompt_embeds: Tensor,
    negative_prompt_embeds: Tensor | None,
    *,
    guidance: Guidance,
    image_latents: Tensor | None = None,
    attention: Attention | None = None,
    split: bool = False,
    approximation: Approximation = EXACT,
    on_step: Callable[[int, Tensor], None] = lambda done, latents: None,
) -> Tensor:
    """Noise to clean latents.

    Args:
        latents: [B, C, T, H, W], float32; noise, or a noised video at the first step's timestep.
        prompt_embeds, negative_prompt_embeds: [B, L, D] in the transformer's dtype; the negative ones are needed
            where guidance is active.
        image_latents: [B, C, T, H, W], concatenated behind the latents.
        attention: the backend; None for PyTorch's own. Where its numbers are not finite it falls back to that.
        split: predict with and without the prompt one after the other, in half the memory, and not in one batch.
        approximation: what may be traded for speed.
        on_step: called after each step with the number of steps done and the latents; may raise to interrupt.
    Returns: [B, C, T, H, W], float32; latents stay in float32 between steps.
    Raises: FloatingPointError when latents are no longer finite.
    """
    dtype = prompt_embeds.dtype
    both = prompt_embeds
    if guidance.active:
        assert negative_prompt_embeds is not None
        both = torch.cat([negative_prompt_embeds, prompt_embeds])
    run = None
    if not approximation.exact:
        scale = guidance.scale if guidance.active else None
        run = approximate(approximation, transformer, [step.timestep for step in steps], scale, prompt_embeds)
    attention = attention or Attention()

    def forward(model_input: Tensor, timestep: int, embeds: Tensor) -> Tensor:
        """v for each of the embeddings."""
        v_pred = []
        for part in embeds.split(len(latents) if split else len(embeds)):
            timesteps = torch.full((len(part),), timestep, device=latents.device)
            copies = len(part) // len(model_input)
            v_pred.append(
                transformer(model_input.repeat(copies, 1, 1, 1, 1), part, timesteps, attention=attention).float()
            )
        return torch.cat(v_pred)

    def ask(latents: Tensor, timestep: int, embeds: Tensor) -> list[Tensor]:
        """v with the prompt, then v with the negative prompt if `embeds` begin with it."""
        model_input = latents.to(dtype)
        if image_latents is not None:
            model_input = torch.cat([model_input, image_latents.to(dtype)], dim=1)
        v_pred = forward(model_input, timestep, embeds)
        if attention.may_fall_back and not v_pred.isfinite().all():
            attention.fall_back(f"gives numbers that are not finite at timestep {timestep}")
            v_pred = forward(model_input, timestep, embeds)
        return [*v_pred.chunk(len(embeds) // len(latents))][::-1]

    def predict(latents: Tensor, step: Step, scale: float) -> Tensor:
        if run is None:
            v_preds = ask(latents, step.timestep, both)
        else:

            def compute(with_negative: bool) -> list[Tensor]:
                v_preds = ask(latents, step.timestep, both if with_negative else prompt_embeds)
                return [predict_x0(latents, v_pred, step.alpha) for v_pred in v_preds]

            x0s = run.predict(step.timestep, latents, step.alpha, compute)
            v_preds = [implied_v(latents, x0, step.alpha) for x0 in x0s]
        return guide(v_preds[1], v_preds[0], scale) if guidance.active else v_preds[0]

    for start in range(0, len(steps), TABULATED_STEPS):
        part = steps[start : start + TABULATED_STEPS]
        with tabulated(transformer, [step.timestep for step in part], latents.to(dtype)):
            for index, step in enumerate(part, start):
                v_pred = predict(latents, step, guidance.at(step, index, len(steps)))
                latents = sampler.step(latents, v_pred, step)
                check_finite(latents, step, dtype, transformer)
                on_step(index + 1, latents)
    if run is not None:
        run.report()
    return latents
