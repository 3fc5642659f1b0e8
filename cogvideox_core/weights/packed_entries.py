"""Quantized weights as files store them: which tensors belong together, and the weight they make.

A file stores a quantized weight as several tensors, such as data and scales, under keys of their own. Here they become
one `PackedWeight` under the weight's key, mapped like any other and still quantized. What other libraries call these
tensors is in `library_entries.py`.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from typing import Any

import torch
from torch import Tensor

from .codecs import CODECS, GGML, Stored
from .entries import OpenWeights, Shape, TensorEntry
from .errors import CheckpointError, listed, shown
from .library_entries import with_common_parts
from .packed_weight import PackedWeight

_BLOCKS = re.compile(r"(?P<module>.+)\.(?P<codec>[A-Z]+\d\w*?)_qweight")
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
    weights = with_common_parts(weights)
    dtype = _plain_dtype(weights)
    kept: dict[str, TensorEntry] = {}
    found = Counter[str]()
    for key, entry in weights.entries.items():
        match = _BLOCKS.fullmatch(key)
        packed = _packed(weights, key, match["codec"] if match else None, dtype)
        if packed is not None:
            kept[f"{match['module']}.weight" if match else key] = packed
            found[str(packed.codec)] += 1
        elif not _is_extra(weights, key):
            kept[key] = entry
    return weights.with_entries(kept, "+".join(sorted(found))) if found else weights


def _packed(weights: OpenWeights, key: str, blocks: str | None, dtype: torch.dtype) -> TensorEntry | None:
    """The quantized weight whose numbers are stored as `key`, in `blocks` if its name says so; None for others."""
    entry = weights.entries[key]
    if blocks is not None:
        return _blocks_entry(weights, key, blocks, dtype)
    if entry.codec is not None and entry.dtype == torch.uint8:
        # Of .gguf files float16, in which what is converted to 16 bits loses least: the rest of them is in float32.
        return _bytes_entry(weights, key, entry.codec, torch.float16 if entry.codec in GGML else dtype)
    if key.endswith(".weight") and (scale := _scale_of(weights, key)):
        _check_format(weights, key)
        return _scaled_entry(weights, key, scale, dtype)
    if entry.dtype in _FP8 and len(entry.shape) > 1:
        return _packed_entry("fp8", entry.shape, dtype, {"data": entry})
    return None


def _plain_dtype(weights: OpenWeights) -> torch.dtype:
    """The dtype quantized weights are decoded to until a model says otherwise: that of the other weights."""
    plain = [dtype for dtype in weights.dtypes.values() if dtype.is_floating_point and dtype not in _FP8]
    halves = [dtype for dtype in plain if dtype.itemsize == 2]  # scales have 32 bits, whatever the model has
    return Counter(halves).most_common(1)[0][0] if halves else torch.bfloat16


def _blocks_entry(weights: OpenWeights, key: str, name: str, dtype: torch.dtype) -> TensorEntry:
    entry, codec = weights.entries[key], GGML.get(name)
    if codec is None:
        raise CheckpointError(
            f"{weights.path} holds {shown(key)} in {shown(name)}, which is not read; give one of {listed(GGML)}"
        )
    if entry.dtype != torch.uint8 or len(entry.shape) != 2 or not codec.fits(entry.shape):
        raise CheckpointError(
            f"{weights.path} holds {shown(key)} of {entry.dtype} and shape {list(entry.shape)}, which are no rows of "
            f"{name} blocks of {codec.block_bytes} bytes; download it again"
        )
    return _bytes_entry(weights, key, name, dtype)


def _bytes_entry(weights: OpenWeights, key: str, name: str, dtype: torch.dtype) -> TensorEntry:
    """A weight whose reader has brought the bytes into the shape that the codec takes."""
    entry, scale = weights.entries[key], _scale_of(weights, key)
    parts = {"data": entry} if scale is None else {"data": entry, "scale": weights.entries[scale]}
    return _packed_entry(name, CODECS[name].shape(entry.shape), dtype, parts)


def _scaled_entry(weights: OpenWeights, key: str, scale: str, dtype: torch.dtype) -> TensorEntry:
    entry, factor = weights.entries[key], weights.entries[scale]
    if entry.dtype not in (torch.int8, *_FP8):
        raise CheckpointError(
            f"{weights.path} holds {shown(key)} in {entry.dtype} with {shown(scale)}; scaled weights are int8 "
            "or fp8, give another file"
        )
    name = "int8" if entry.dtype == torch.int8 else "fp8"
    shape = _scale_shape(entry.shape, factor.shape)
    if shape is None:
        raise CheckpointError(
            f"{weights.path} holds {math.prod(factor.shape)} scales for the {math.prod(entry.shape[:1])} rows of "
            f"{shown(key)}; there is one for each row, one for all, or one for equal parts of each row, download it "
            "again"
        )
    shaped = factor._replace(shape=shape, read=lambda: factor.read().reshape(shape))
    in_groups = math.prod(shape) > math.prod(entry.shape[:1])
    return _packed_entry(
        f"{name} in groups" if in_groups else name, entry.shape, dtype, {"data": entry, "scale": shaped}
    )


def _scale_shape(data: Shape, scale: Shape) -> Shape | None:
    """The shape in which scales are applied to data; None if they do not fit it.

    One for all is [], one for each row [rows, 1] (of a matrix), and one for each group of columns [rows, groups].
    """
    count, rows = math.prod(scale), math.prod(data[:1])
    if count == 1:
        return ()
    if count == rows:
        return (rows, *[1] * (len(data) - 1))
    if len(data) == len(scale) == 2 and scale[0] == rows and scale[1] and data[1] % scale[1] == 0:
        return scale
    return None


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
