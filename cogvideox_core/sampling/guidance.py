"""Classifier-free guidance and its dynamic scale."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from ..models.config import TransformerConfig
from ..pipeline.memory import free_memory

DynamicBy = Literal["timestep", "step"]

_WIDTHS_PER_TOKEN = 12
"""Numbers a block holds for a token at its fullest, as multiples of the width, where every operation writes what it
makes; with kernels that write less it is less."""


def guide(v_uncond: Tensor, v_cond: Tensor, guidance_scale: float) -> Tensor:
    """u + g (c - u), shapes alike."""
    return v_uncond + guidance_scale * (v_cond - v_uncond)


def dynamic_scale(
    guidance_scale: float, *, timestep: int, step_index: int, num_inference_steps: int, by: DynamicBy = "timestep"
) -> float:
    """The guidance scale of one step: 1 + g (1 - cos(pi ((N - t) / N)^5)) / 2.

    Args:
        by: "timestep" puts the raw timestep (0 to 999) for t, as the published code does (the scale then jumps about);
            "step" puts the index of the step, which was evidently meant: it falls smoothly from 1 + g to 1.
    Source: diffusers `CogVideoXPipeline.__call__`, SAT `DynamicCFG`; huggingface/diffusers issue 9641.
    """
    position = timestep if by == "timestep" else step_index
    progress = ((num_inference_steps - position) / num_inference_steps) ** 5.0
    return 1 + guidance_scale * (1 - math.cos(math.pi * progress)) / 2


def forward_nbytes(config: TransformerConfig, tokens: int, batch: int, dtype: torch.dtype) -> int:
    """About the bytes a forward takes beyond the weights; `tokens` of text and video in each row of the batch."""
    return _WIDTHS_PER_TOKEN * config.width * tokens * batch * dtype.itemsize


def fits_in_one(config: TransformerConfig, tokens: int, batch: int, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether a forward of both guidance halves, `batch` rows, fits into the free memory of a CUDA device.

    Elsewhere memory can be swapped or is not told, and it is taken to fit.
    """
    if device.type != "cuda":
        return True
    free = free_memory(device)
    return free is None or forward_nbytes(config, tokens, batch, dtype) <= free
