"""Classifier-free guidance and its dynamic scale."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

DynamicBy = Literal["timestep", "step"]


@dataclass(frozen=True)
class Guidance:
    """How strongly the prompt is followed. A scale of 1 or less runs without the negative prompt.

    Attributes:
        scale: the guidance scale g.
        dynamic: vary the scale over the steps (see `dynamic_scale`).
        dynamic_by: what goes into the formula of the dynamic scale.
    """

    scale: float = 6.0
    dynamic: bool = False
    dynamic_by: DynamicBy = "timestep"

    @property
    def active(self) -> bool:
        """Whether the negative prompt is computed at all."""
        return self.scale > 1.0

    def at(self, timestep: int, index: int, count: int) -> float:
        """The scale at `timestep`, which is step `index` of `count`."""
        if not self.dynamic:
            return self.scale
        return dynamic_scale(
            self.scale, timestep=timestep, step_index=index, num_inference_steps=count, by=self.dynamic_by
        )


def guide(uncond: Tensor, cond: Tensor, guidance_scale: float) -> Tensor:
    """u + g (c - u), for predictions with the negative prompt and with the prompt, both [B, C, T, H, W]."""
    return uncond + guidance_scale * (cond - uncond)


def dynamic_scale(
    guidance_scale: float, *, timestep: int, step_index: int, num_inference_steps: int, by: DynamicBy = "timestep"
) -> float:
    """The guidance scale of one step: 1 + g (1 - cos(pi ((N - t) / N)^5)) / 2.

    Args:
        by: "timestep" takes the raw timestep (0 to 999) as t, as the published code does (the scale then jumps about);
            "step" takes the index of the step, as was evidently meant: it falls smoothly from 1 + g to 1.
    Source: diffusers `CogVideoXPipeline.__call__`, SAT `DynamicCFG`; huggingface/diffusers issue 9641.
    """
    position = timestep if by == "timestep" else step_index
    progress = ((num_inference_steps - position) / num_inference_steps) ** 5.0
    return 1 + guidance_scale * (1 - math.cos(math.pi * progress)) / 2
