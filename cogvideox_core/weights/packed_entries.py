"""Quantized weights as files store them: which tensors belong together, and the weight they make.

A file stores a quantized weight as several tensors, such as data and scales, under keys of their own. Here they become
one `PackedWeight` under the weight's key, mapped like any other and still quantized.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

import torch
from torch import Tensor

from .codecs import CODECS, Stored
from .entries import OpenWeights, TensorEntry
from .errors import CheckpointError, listed, shown
from .packed_weight import PackedWeight

_BLOCKS = re.compile(r"(?P<module>.+)\.(?P<codec>Q\d_\w+?)_qweight")
# What the scale of "<module>.weight" is called: by ComfyUI, and by its older fp8 files.
_SCALES = ("weight_scale", "scale_weight")
# What ComfyUI stores with a scaled weight and decoding does not need.
_EXTRAS = ("input_scale", "scale_input", "comfy_quant")
_MARKERS = ("scaled_fp8",)  # a tensor that says only that a file has scales
_FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)
_COMFY_FORMATS = {"int8_tensorwise", "float8_e4m3fn", "float8_e5m2"}


def with_packed_weights(weights: OpenWeights) -> OpenWeights:
    """`weights` with one entry, a `PackedWeight`, for each quantized weight; `weights` itself if it has none.

    Raises: CheckpointError for a format that is not read, or data and scales that do not fit together.
    """
    dtype = _plain_dtype(weights)
    kept: dict[str, TensorEntry] = {}
    found = Counter[str]()
    for key, entry in weights.entries.items():
        if match := _BLOCKS.fullmatch(key):
            name = match["codec"]
            kept[f"{match['module']}.weight"] = _blocks_entry(weights, key, name, entry, dtype)
            found[name] += 1
        elif key.endswith(".weight") and (scale := _scale_of(weights, key)):
            _check_format(weights, key)
            name = "int8" if entry.dtype == torch.int8 else "fp8"
            kept[key] = _scaled_entry(weights, key, scale, name, dtype)
            found[name] += 1
        elif entry.dtype in _FP8 and len(entry.shape) > 1:
            kept[key] = _packed_entry("fp8", entry.shape, dtype, {"data": entry})
            found["fp8"] += 1
        elif not _is_extra(weights, key):
            kept[key] = entry
    return weights.with_entries(kept, "+".join(sorted(found))) if found else weights


def _plain_dtype(weights: OpenWeights) -> torch.dtype:
    """The dtype quantized weights are decoded to until a model says otherwise: that of the other weights."""
    plain = [dtype for dtype in weights.dtypes.values() if dtype.is_floating_point and dtype not in _FP8]
    halves = [dtype for dtype in plain if dtype.itemsize == 2]  # scales have 32 bits, whatever the model has
    return Counter(halves).most_common(1)[0][0] if halves else torch.bfloat16


def _blocks_entry(weights: OpenWeights, key: str, name: str, entry: TensorEntry, dtype: torch.dtype) -> TensorEntry:
    codec = CODECS.get(name)
    if codec is None:
        known = ", ".join(codec.name for codec in CODECS.values() if codec.block)
        raise CheckpointError(f"{weights.path} holds {shown(key)} in {name}, which is not read; give one of {known}")
    if entry.dtype != torch.uint8 or len(entry.shape) != 2 or not codec.fits(entry.shape):
        raise CheckpointError(
            f"{weights.path} holds {shown(key)} of {entry.dtype} and shape {list(entry.shape)}, which are no rows of "
            f"{name} blocks of {codec.block_bytes} bytes; download it again"
        )
    return _packed_entry(name, codec.shape(entry.shape), dtype, {"data": entry})


def _scaled_entry(weights: OpenWeights, key: str, scale: str, name: str, dtype: torch.dtype) -> TensorEntry:
    entry, factor = weights.entries[key], weights.entries[scale]
    if entry.dtype not in (torch.int8, *_FP8):
        raise CheckpointError(
            f"{weights.path} holds {shown(key)} in {entry.dtype} with {shown(scale)}; scaled weights are int8 "
            "or fp8, give another file"
        )
    rows = entry.shape[0] if entry.shape else 1
    count = torch.Size(factor.shape).numel()
    if count not in (1, rows):
        raise CheckpointError(
            f"{weights.path} holds {count} scales for the {rows} rows of {shown(key)}; there is one for each row or "
            "one for all, download it again"
        )
    # A scale for each row multiplies the data by broadcasting: [rows, 1] for a matrix, [] for one scale.
    column = (rows, *[1] * (len(entry.shape) - 1)) if count > 1 else ()
    shaped = factor._replace(shape=column, read=lambda: factor.read().reshape(column))
    return _packed_entry(name, entry.shape, dtype, {"data": entry, "scale": shaped})


def _packed_entry(name: str, shape: tuple[int, ...], dtype: torch.dtype, parts: dict[str, TensorEntry]) -> TensorEntry:
    def read() -> Tensor:
        stored: Stored = {part: entry.read() for part, entry in parts.items()}
        return PackedWeight(name, stored, dtype)

    return TensorEntry(shape, dtype, read, name)


def _scale_of(weights: OpenWeights, key: str) -> str | None:
    module = key.removesuffix("weight")
    return next((module + name for name in _SCALES if module + name in weights.entries), None)


def _is_extra(weights: OpenWeights, key: str) -> bool:
    module, _, leaf = key.rpartition(".")
    return key in _MARKERS or (leaf in (*_SCALES, *_EXTRAS) and f"{module}.weight" in weights.entries)


def _check_format(weights: OpenWeights, key: str) -> None:
    """Refuse a weight whose format, in the note that ComfyUI stores with it, is not read."""
    note = key.removesuffix("weight") + "comfy_quant"
    if note not in weights.entries:
        return
    try:
        content: Any = json.loads(bytes(weights[note].flatten().tolist()))
        options = {**content, **(content.get("params") or {})}
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{weights.path} holds a {shown(note)} that is no JSON; download it again") from error
    if options.get("format") not in _COMFY_FORMATS or options.get("convrot"):
        found = f"{options.get('format')}{' with rotation' if options.get('convrot') else ''}"
        raise CheckpointError(
            f"{weights.path} holds {shown(key)} in the format {shown(found)}; read are "
            f"{listed(sorted(_COMFY_FORMATS))}, give one of these or the 16-bit weights"
        )
