"""The denoising loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..models.transformer.adaln_table import tabulated
from ..models.transformer.attention import Attention
from ..models.transformer.model import CogVideoXTransformer3D
from .approximation import EXACT, ApproximateRun, Approximation, approximate
from .guidance import DynamicBy, dynamic_scale, guide
from .noise_schedule import Step, implied_v, predict_x0
from .samplers import Sampler, check_finite

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
    run = None
    if not approximation.exact:
        scale = guidance.scale if guidance.active else None
        run = approximate(approximation, transformer, [step.timestep for step in steps], scale, prompt_embeds)
    embeds = [prompt_embeds]
    if guidance.active:
        assert negative_prompt_embeds is not None
        embeds.append(negative_prompt_embeds)
    model = _Model(transformer, embeds, image_latents, attention or Attention(), split=split, run=run)
    dtype = prompt_embeds.dtype
    for start in range(0, len(steps), TABULATED_STEPS):
        part = steps[start : start + TABULATED_STEPS]
        with tabulated(transformer, [step.timestep for step in part], latents.to(dtype)):
            for index, step in enumerate(part, start):
                v_cond, *v_uncond = model.predict(latents, step)
                v_pred = guide(v_uncond[0], v_cond, guidance.at(step, index, len(steps))) if v_uncond else v_cond
                latents = sampler.step(latents, v_pred, step)
                check_finite(latents, step, dtype, transformer)
                on_step(index + 1, latents)
    if run is not None:
        run.report()
    return latents


class _Model:
    """What a step asks of the transformer: v with each of the embeddings, of the prompt and perhaps a negative one."""

    def __init__(
        self,
        transformer: CogVideoXTransformer3D,
        embeds: list[Tensor],
        image_latents: Tensor | None,
        attention: Attention,
        *,
        split: bool,
        run: ApproximateRun | None,
    ) -> None:
        self.transformer, self.embeds, self.attention = transformer, embeds, attention
        self.dtype = embeds[0].dtype
        self.image_latents = None if image_latents is None else image_latents.to(self.dtype)
        self.split, self.run = split, run

    def predict(self, latents: Tensor, step: Step) -> list[Tensor]:
        """v with each of the embeddings, computed or predicted."""
        if self.run is None:
            return self._compute(latents, step, self.embeds)

        def compute(with_negative: bool) -> list[Tensor]:
            v_preds = self._compute(latents, step, self.embeds if with_negative else self.embeds[:1])
            return [predict_x0(latents, v_pred, step.alpha) for v_pred in v_preds]

        x0s = self.run.predict(step.timestep, latents, step.alpha, compute)
        return [implied_v(latents, x0, step.alpha) for x0 in x0s]

    def _compute(self, latents: Tensor, step: Step, embeds: list[Tensor]) -> list[Tensor]:
        model_input = latents.to(self.dtype)
        if self.image_latents is not None:
            model_input = torch.cat([model_input, self.image_latents], dim=1)
        v_preds = self._forward(model_input, step.timestep, embeds)
        if self.attention.may_fall_back and not all(v_pred.isfinite().all() for v_pred in v_preds):
            self.attention.fall_back(f"gives numbers that are not finite at timestep {step.timestep}")
            v_preds = self._forward(model_input, step.timestep, embeds)
        return v_preds

    def _forward(self, model_input: Tensor, timestep: int, embeds: list[Tensor]) -> list[Tensor]:
        """In one batch, the negative prompt first as in the reference, or one after the other."""
        batches = [[part] for part in embeds] if self.split else [embeds[::-1]]
        v_preds = []
        for batch in batches:
            rows = torch.cat(batch)
            timesteps = torch.full((len(rows),), timestep, device=rows.device)
            repeated = model_input.repeat(len(batch), 1, 1, 1, 1)
            v_pred = self.transformer(repeated, rows, timesteps, attention=self.attention).float()
            v_preds += v_pred.chunk(len(batch))[::-1]
        return v_preds
