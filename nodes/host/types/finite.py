"""Numbers that are not finite stop a run at the sampler, whichever it is; decoded they would be black frames."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ....cogvideox_core.sampling.finite import not_finite


def refuse_unfinite(executor: Any, *arguments: Any, **options: Any) -> Tensor:
    """An OUTER_SAMPLE wrapper. Returns: the sampler's result [B, C, T, h, w].

    Raises: FloatingPointError if it holds NaN or infinity.
    """
    model = executor.class_obj.model_patcher.model
    samples = executor(*arguments, **options)
    if not torch.isfinite(samples).all():
        raise not_finite("the sampler's latent holds NaN or infinite values", model.get_dtype_inference(), model)
    return samples
