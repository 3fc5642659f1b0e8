"""Number types: the names people write, and which one a set of weights is loaded in."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from .errors import CheckpointError, listed
from .packed_weight import codec_of

_LOG = logging.getLogger("cogvideox")

_NAMES: dict[str, torch.dtype] = {
    "bf16": torch.bfloat16,
    "bfloat16": torch.bfloat16,
    "fp16": torch.float16,
    "float16": torch.float16,
    "half": torch.float16,
    "fp32": torch.float32,
    "float32": torch.float32,
    "float": torch.float32,
    "fp64": torch.float64,
    "float64": torch.float64,
    "double": torch.float64,
}


def named_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """The dtype of a name such as "bf16" or "float32". Raises: ValueError if a model cannot compute in it."""
    found = _NAMES.get(dtype.lower().removeprefix("torch.")) if isinstance(dtype, str) else dtype
    if found is None or found not in _NAMES.values():
        raise ValueError(f"dtype={dtype!r}; models compute in {', '.join(_NAMES)}; give one of these")
    return found


def weights_dtype(
    tensors: Mapping[str, Tensor],
    wanted: torch.dtype | None,
    source: str | Path,
    *,
    otherwise: torch.dtype = torch.bfloat16,
) -> torch.dtype:
    """The dtype to load weights in: the wanted one, else the one that most of their numbers have.

    Args:
        tensors: [...] each, by key; quantized ones are not counted.
        source: names the weights in messages.
        otherwise: the dtype where every tensor is quantized or in 8-bit floats.
    Raises: CheckpointError if there are whole numbers among them that no scale belongs to.
    """
    plain = {key: tensor for key, tensor in tensors.items() if codec_of(tensor) is None}
    whole = [f"{key} ({tensor.dtype})" for key, tensor in plain.items() if not tensor.dtype.is_floating_point]
    if whole:
        raise CheckpointError(
            f"{source} holds whole numbers without a scale: {listed(whole)}; give weights in a format that is read"
        )
    if wanted is not None:
        return wanted
    computing = {key: tensor for key, tensor in plain.items() if tensor.dtype in _NAMES.values()}
    if len(plain) < len(tensors):  # of a quantized model: norms are often kept in 32 bits, whatever it was made from
        halves = {key: tensor for key, tensor in computing.items() if tensor.dtype.itemsize == 2}
        return _most_common(halves, source) if halves else otherwise
    return _most_common(computing, source) if computing else otherwise


def _most_common(tensors: Mapping[str, Tensor], source: str | Path) -> torch.dtype:
    counts: Counter[torch.dtype] = Counter()
    for tensor in tensors.values():
        counts[tensor.dtype] += tensor.numel()
    (most, _), *others = counts.most_common()
    if others:
        names = ", ".join(str(dtype) for dtype, _ in others)
        _LOG.warning("%s mixes number types (%s and %s); everything is loaded as %s", source, names, most, most)
    return most
