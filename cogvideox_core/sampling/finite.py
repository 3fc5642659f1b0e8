"""Numbers that are not finite, and what they say about the model: decoded they would be black frames."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def check_finite(latents: Tensor, timestep: int, dtype: torch.dtype, model: nn.Module | None = None) -> None:
    """Refuse predicted latents that hold NaN or infinity.

    Args:
        latents: [B, C, T, H, W], predicted at `timestep`.
        dtype: in which the model computes.
        model: its weights are searched for damage if the latents are not finite.
    Raises: FloatingPointError that names the damaged weight, or else the timestep and the likely cause.
    """
    if not torch.isfinite(latents).all():
        raise not_finite(f"latents became NaN or infinite at timestep {timestep}", dtype, model)


def not_finite(what: str, dtype: torch.dtype, model: nn.Module | None = None) -> FloatingPointError:
    """The error about numbers that are not finite, with its likely cause.

    Args:
        what: the beginning of the sentence: what was found.
        dtype, model: as in `check_finite`.
    """
    if isinstance(model, nn.Module) and (key := _damaged_weight(model)):
        return FloatingPointError(
            f"{what}, and so are numbers in the model's own weights: {key} is damaged in its file; download it again"
        )
    if dtype == torch.float16:
        return FloatingPointError(
            f"{what}; the likely cause is the model's dtype float16: the 5B and 1.5 models need bfloat16 or float32"
        )
    return FloatingPointError(
        f"{what}, though {str(dtype).removeprefix('torch.')} suits every model; remove sage attention, LoRAs and "
        "whatever else changes the model, one at a time, and run again"
    )


def _damaged_weight(model: nn.Module) -> str | None:
    """The key of the first weight that holds NaN or infinity."""
    for key, tensor in model.state_dict().items():
        if (
            tensor.is_floating_point() and not tensor.is_meta and not (tensor + 0).isfinite().all()
        ):  # + 0 dequantizes it
            return key
    return None
