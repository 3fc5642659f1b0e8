"""In which dtype a model computes on a device: its own, where the device has arithmetic for that."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch

from ..kernels.devices import dtype_fault
from ..weights.dtypes import named_dtype, weights_dtype

if TYPE_CHECKING:
    from ..weights.t5 import TextEncoderWeights

logger = logging.getLogger("cogvideox")

_SMALL = 100_000_000  # parameters; in float32 they take 0.4 GB


def own_dtype(stored: torch.dtype, trained: torch.dtype, device: torch.device, parameters: int) -> torch.dtype:
    """The dtype to compute in where none was asked for: that of the weights, where the device has arithmetic for it.

    A CPU hardly computes in float16: there small models run in float32 and large ones in bfloat16. A device that lacks
    the dtype, or only emulates bfloat16, computes in float32, or in float16 if the model was trained in that; the log
    says so.

    Args:
        stored: of the weights.
        trained: what the model was trained in, which says whether it overflows in float16.
        parameters: how many numbers the weights are.
    """
    if stored == torch.float16 and device.type == "cpu":
        return torch.float32 if parameters <= _SMALL else torch.bfloat16
    fault = dtype_fault(device, stored)
    if fault is None:
        return stored
    if trained == torch.float16 != stored:
        chosen, remark = trained, "in which the model was trained"
    else:
        chosen = torch.float32
        remark = f"{4 * parameters / 1e9:.1f} GB of weights; where they do not fit, low memory streams them"
    logger.warning(
        "%s does not compute in %s (%s), so %s is taken, %s", device, _name(stored), fault, _name(chosen), remark
    )
    return chosen


def text_encoder_dtype(
    weights: TextEncoderWeights, asked: torch.dtype | str | None, device: torch.device
) -> torch.dtype:
    """The dtype of a text encoder that is on a device of its own: the one asked for, or else its own, if that device
    has arithmetic for it."""
    stored = weights_dtype(weights.embedding, None if asked is None else named_dtype(asked), weights.folder)
    parameters = sum(tensor.numel() for tensor in weights.state_dict.values())
    return own_dtype(stored, torch.bfloat16, device, parameters)


def check_dtype(dtype: torch.dtype, trained: torch.dtype, device: torch.device) -> None:
    """Refuse a dtype that a device does not compute in, or only emulates.

    Raises: ValueError.
    """
    fault = dtype_fault(device, dtype)
    if fault is not None:
        fitting = "float16 or float32" if trained == torch.float16 else "float32"
        raise ValueError(f"dtype={_name(dtype)} on {device}, which does not compute in it ({fault}); take {fitting}")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
