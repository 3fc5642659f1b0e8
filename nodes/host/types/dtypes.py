"""In which dtype a transformer's weights are kept, and in which they are computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import comfy.model_management
import torch
from torch import Tensor

from ....cogvideox_core.models.variants import Variant
from ....cogvideox_core.weights.dtypes import named_dtype, weights_dtype


@dataclass(frozen=True)
class Dtypes:
    """What ComfyUI is given as `set_inference_dtype`."""

    weights: torch.dtype  # of the unquantized weights in memory
    compute: torch.dtype | None  # each layer casts to it; None: it computes in the weights' own


def supported_dtypes(variant: Variant) -> list[torch.dtype]:
    """What a model can compute in, in ComfyUI's order of preference; models trained in bfloat16 overflow in float16."""
    fits_float16 = named_dtype(variant.defaults.dtype) == torch.float16
    return [torch.float16] * fits_float16 + [torch.bfloat16, torch.float32]


def choose_dtypes(
    state_dict: Mapping[str, Tensor],
    path: str | Path,
    variant: Variant,
    asked: torch.dtype | None = None,
    *,
    quantized: bool = False,
) -> Dtypes:
    """The dtypes for weights (of any shapes [...]) from a file, on ComfyUI's device.

    Weights are kept in what the user asked for; else ComfyUI chooses by device, memory, file and command line. They are
    computed in the same where device and model can. Where they cannot (the device does not compute in that dtype, or
    the model overflows in it), and for quantized weights, which are stored in no dtype to compute in, ComfyUI chooses
    the fastest of the model's dtypes.
    """
    mm, supported = comfy.model_management, supported_dtypes(variant)
    weights = asked or mm.unet_dtype(
        model_params=sum(tensor.numel() for tensor in state_dict.values()),
        supported_dtypes=supported,
        weight_dtype=weights_dtype(state_dict, None, path, otherwise=named_dtype(variant.defaults.dtype)),
    )
    overflows = weights == torch.float16 and torch.float16 not in supported
    computes_as_stored = not (quantized or overflows)
    compute = mm.unet_manual_cast(weights if computes_as_stored else None, mm.get_torch_device(), supported)
    return Dtypes(weights, compute)
