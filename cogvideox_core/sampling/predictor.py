"""The transformer as a predictor of clean latents: prompts and images go in, guidance comes out."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..models.config import PositionTable
from ..models.transformer.adaln_table import tabulated
from ..models.transformer.attention import Attention
from ..models.transformer.model import CogVideoXTransformer3D
from ..models.transformer.positions import Positions
from .approximation import EXACT, ApproximateRun, Approximation, approximate
from .finite import check_finite
from .guidance import Guidance, guide
from .noise_schedule import Step, predict_x0

TABULATED_STEPS = 64
"""Steps whose modulation is computed at once; it takes 3 MB a step in a 5B model."""


@dataclass(frozen=True)
class Conditions:
    """What a run follows: the prompt and how strongly, and images.

    Attributes:
        prompt_embeds, negative_prompt_embeds: [B, L, D] in the transformer's dtype; the negative ones are needed where
            guidance is active.
        guidance: how strongly the prompt is followed.
        image_latents: [B, C, T, H, W], concatenated to the latents as channels.
        position_table: what becomes of a learned one.
    """

    prompt_embeds: Tensor
    negative_prompt_embeds: Tensor | None = None
    guidance: Guidance = Guidance()
    image_latents: Tensor | None = None
    position_table: PositionTable = "trained"


class TransformerPredictor:
    """A `Predictor` by the transformer, for one run. Use it in a `with` block: inside, the transformer's adaptive norms
    are tabulated for the steps of the run.

    Args:
        steps: of the run, in order.
        attention: the backend; None for PyTorch's own. Where its results are not finite, PyTorch's replaces it.
        split: compute prompt and negative prompt one after the other, in half the memory, and not in one batch.
        approximation: what may be traded for speed.
    """

    def __init__(
        self,
        transformer: CogVideoXTransformer3D,
        steps: Sequence[Step],
        conditions: Conditions,
        *,
        attention: Attention | None = None,
        split: bool = False,
        approximation: Approximation = EXACT,
    ) -> None:
        self.transformer = transformer
        self.steps = steps
        self.guidance = conditions.guidance
        self.attention = attention or Attention()
        self.split = split
        self.dtype = conditions.prompt_embeds.dtype
        self.image_latents = conditions.image_latents
        self.positions = Positions(table=conditions.position_table)
        self.embeds = [conditions.prompt_embeds]
        if self.guidance.active:
            assert conditions.negative_prompt_embeds is not None
            self.embeds.append(conditions.negative_prompt_embeds)
        self._run = None if approximation.exact else self._approximate(approximation)
        self._tables = ExitStack()

    def __enter__(self) -> TransformerPredictor:
        return self

    def __exit__(self, *error: object) -> None:
        self._tables.close()
        if self._run is not None and error[0] is None:
            self._run.report()

    def __call__(self, latents: Tensor, step: Step, index: int) -> Tensor:
        """Guided x0 [B, C, T, H, W], float32, of latents of that shape.

        Raises: FloatingPointError if it is not finite.
        """
        if index % TABULATED_STEPS == 0:
            self._tabulate(index, latents)
        cond, *uncond = self._x0s(latents, step)
        scale = self.guidance.at(step.timestep, index, len(self.steps))
        x0 = guide(uncond[0], cond, scale) if uncond else cond
        check_finite(x0, step.timestep, self.dtype, self.transformer)
        return x0

    def _approximate(self, approximation: Approximation) -> ApproximateRun:
        timesteps = [step.timestep for step in self.steps]
        scale = self.guidance.scale if self.guidance.active else None
        return approximate(approximation, self.transformer, timesteps, scale, self.embeds[0])

    def _tabulate(self, index: int, latents: Tensor) -> None:
        """Replace the table of the steps before `index` by that of the steps from it on."""
        self._tables.close()
        timesteps = [step.timestep for step in self.steps[index : index + TABULATED_STEPS]]
        self._tables.enter_context(tabulated(self.transformer, timesteps, latents.to(self.dtype)))

    def _x0s(self, latents: Tensor, step: Step) -> list[Tensor]:
        """x0 with the prompt and, where guidance is active, with the negative prompt; computed or approximated."""

        def compute(with_negative: bool) -> list[Tensor]:
            v_preds = self._v_preds(latents, step, self.embeds if with_negative else self.embeds[:1])
            return [predict_x0(latents, v_pred, step.alpha) for v_pred in v_preds]

        if self._run is None:
            return compute(True)
        return self._run.predict(step.timestep, latents, step.alpha, compute)

    def _v_preds(self, latents: Tensor, step: Step, embeds: list[Tensor]) -> list[Tensor]:
        """v with each of the embeddings; with PyTorch's attention where the backend's results are not finite."""
        model_input = latents.to(self.dtype)
        if self.image_latents is not None:
            model_input = torch.cat([model_input, self.image_latents.to(self.dtype)], dim=1)
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
            options: dict[str, Any] = {"attention": self.attention, "positions": self.positions}
            v_pred = self.transformer(repeated, rows, timesteps, **options).float()
            v_preds += v_pred.chunk(len(batch))[::-1]
        return v_preds
