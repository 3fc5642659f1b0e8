"""Quantized weights of bitsandbytes, torchao and quanto, as diffusers and transformers save them.

Each of these libraries stores a weight as several tensors under names of its own. Here they get the names and shapes
that the parts of a quantized weight have in ComfyUI's files, "weight" and "weight_scale"; nothing is decoded.

Sources: bitsandbytes' `functional.QuantState`, torchao's `prototype/safetensors`, quanto's `tensor/weights`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .entries import OpenWeights, TensorEntry
from .errors import CheckpointError, shown

INSTEAD = "give int8, fp8, nf4, a .gguf file or the 16-bit weights"
"""What to do with weights in a format that is not read."""


class Library(NamedTuple):
    """How one library stores the weight of a module.

    Attributes:
        name: the library's.
        marker: pattern of a name, behind the module's, that every quantized weight has and nothing else.
        parts: pattern of all the names that may belong to such a weight.
        read: the entries of a module's weight under common names, from all entries.
    """

    name: str
    marker: str
    parts: str
    read: Callable[[OpenWeights, str], dict[str, TensorEntry]]


def with_common_parts(weights: OpenWeights) -> OpenWeights:
    """`weights` with common names for the parts of quantized weights; `weights` itself if no library wrote any.

    Raises: CheckpointError for a format of these libraries that is not read, or parts that do not fit together.
    """
    for library in LIBRARIES:
        weights = _renamed(weights, library)
    return weights


def _renamed(weights: OpenWeights, library: Library) -> OpenWeights:
    marker, parts = (re.compile(rf"(?P<module>.+)\.({pattern})") for pattern in (library.marker, library.parts))
    modules = {match["module"] for key in weights if (match := marker.fullmatch(key))}
    if not modules:
        return weights
    kept: dict[str, TensorEntry] = {}
    for key, entry in weights.entries.items():
        match = parts.fullmatch(key)
        if match is None or match["module"] not in modules:
            kept[key] = entry
        elif f"{match['module']}.weight" not in kept:
            kept |= library.read(weights, match["module"])
    return weights.with_entries(kept, library.name)


def _part(weights: OpenWeights, module: str, name: str) -> TensorEntry:
    if f"{module}.{name}" not in weights:
        raise CheckpointError(
            f"{weights.path} holds parts of the quantized weight of {shown(module)} and no {name}; download it again"
        )
    return weights.entries[f"{module}.{name}"]


def _common_parts(module: str, data: TensorEntry, scale: TensorEntry) -> dict[str, TensorEntry]:
    return {f"{module}.weight": data, f"{module}.weight_scale": scale}


def _object(text: str | bytes, weights: OpenWeights, what: str) -> dict[str, Any]:
    """The object that a note in JSON is."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise CheckpointError(f"{weights.path} holds a {shown(what)} that is no JSON object; download it again")
    return content


# --- bitsandbytes -----------------------------------------------------------------------------------------------------


class _FourBits(NamedTuple):
    """What bitsandbytes notes of a weight in 4 bits. Scales that are quantized themselves have a nested block size."""

    quant_type: str
    blocksize: int
    rows: int
    columns: int
    nested_blocksize: int
    nested_offset: float


def _read_4_bits(weights: OpenWeights, module: str) -> dict[str, TensorEntry]:
    """Two numbers in a byte, and a scale for each `blocksize` of them, which are counted across rows.

    A scale that serves parts of several rows is repeated, so that each row has its own.
    """
    note = _note_of_4_bits(weights, module)
    data, scales = _halves(weights, module, note), _scales(weights, module, note)
    group = math.gcd(note.columns, note.blocksize)
    groups = (note.rows, note.columns // group)

    def read_scale() -> Tensor:
        flat = _unnested(note, *(part.read() for part in scales))
        if group < note.blocksize:
            flat = flat.repeat_interleave(note.blocksize // group)[: math.prod(groups)]
        return flat.reshape(groups)

    return _common_parts(module, data, TensorEntry(groups, torch.float32, read_scale))


def _halves(weights: OpenWeights, module: str, note: _FourBits) -> TensorEntry:
    """The bytes of a weight, [rows, columns / 2]. They may be stored as numbers of any dtype."""
    entry, shape = _part(weights, module, "weight"), (note.rows, note.columns // 2)
    if note.columns % 2 or math.prod(entry.shape) * entry.dtype.itemsize != math.prod(shape):
        raise CheckpointError(
            f"{weights.path} holds {shown(module)}.weight of shape {list(entry.shape)}, which are no "
            f"{note.rows} x {note.columns} numbers of 4 bits; download it again"
        )
    return TensorEntry(
        shape, torch.uint8, lambda: entry.read().reshape(-1).view(torch.uint8).reshape(shape), note.quant_type
    )


def _scales(weights: OpenWeights, module: str, note: _FourBits) -> list[TensorEntry]:
    """What `_unnested` takes: the scales, and if they are indices, the values and the scales of these."""
    count = -(-note.rows * note.columns // note.blocksize)
    sizes = {"absmax": count}
    if note.nested_blocksize:
        sizes |= {"nested_quant_map": 256, "nested_absmax": -(-count // note.nested_blocksize)}
    return [_values(weights, module, f"weight.{name}", size) for name, size in sizes.items()]


def _values(weights: OpenWeights, module: str, name: str, count: int) -> TensorEntry:
    part = _part(weights, module, name)
    if math.prod(part.shape) != count:
        raise CheckpointError(
            f"{weights.path} holds {math.prod(part.shape)} values of {shown(module)}.{name} in place of {count}; "
            "download it again"
        )
    return part


def _unnested(note: _FourBits, absmax: Tensor, *nested: Tensor) -> Tensor:
    """The scales [n]: as they are, or 8-bit indices of values, with a scale for each so many and one offset."""
    if not nested:
        return absmax.float()
    values, scales = nested
    return values[absmax.int()] * scales.repeat_interleave(note.nested_blocksize)[: len(absmax)] + note.nested_offset


def _note_of_4_bits(weights: OpenWeights, module: str) -> _FourBits:
    names = (f"{module}.weight.quant_state.bitsandbytes__{quant_type}" for quant_type in ("nf4", "fp4"))
    key = next(name for name in names if name in weights)
    note = _object(bytes(weights[key].reshape(-1).view(torch.uint8).tolist()), weights, key)
    try:
        rows, columns = map(int, note["shape"])
        nested = int(note.get("nested_blocksize") or 0), float(note.get("nested_offset") or 0)
        found = _FourBits(note["quant_type"], int(note["blocksize"]), rows, columns, *nested)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{weights.path} holds a {shown(key)} without its sizes; download it again") from error
    is_nested = _part(weights, module, "weight.absmax").dtype == torch.uint8
    is_right = min(found.blocksize, rows, columns) > 0 and (found.nested_blocksize > 0) == is_nested
    if not is_right or found.quant_type not in key:
        raise CheckpointError(f"{weights.path} holds a {shown(key)} that is not of these numbers; download it again")
    return found


def _read_8_bits(weights: OpenWeights, module: str) -> dict[str, TensorEntry]:
    """Rows of int8, and of each row the largest absolute value, which is stored as 127."""
    data, largest = _part(weights, module, "weight"), _part(weights, module, "SCB")
    layout = weights.entries.get(f"{module}.weight_format")
    if layout is not None and layout.read().any():
        raise _not_read(weights, module, "the order of one kind of card")
    scale = TensorEntry(largest.shape, torch.float32, lambda: largest.read().float() / 127)
    return _common_parts(module, data, scale)


# --- torchao and quanto -----------------------------------------------------------------------------------------------

# torchao's classes whose numbers are those of the data times a scale.
_TORCHAO_CLASSES = ("Int8Tensor", "IntxUnpackedToInt8Tensor", "Float8Tensor")


def _read_torchao(weights: OpenWeights, module: str) -> dict[str, TensorEntry]:
    """The file's header notes the class of each weight. Parts that these classes have for activations are left out."""
    note = _object(weights.metadata.get(f"{module}.weight", ""), weights, f"note of torchao on {module}.weight")
    zero_point = weights.entries.get(f"{module}._weight_zero_point")
    if note.get("_type") not in _TORCHAO_CLASSES or f"{module}._weight_act_pre_scale" in weights:
        raise _not_read(weights, module, f"torchao's {note.get('_type')}")
    if zero_point is not None and zero_point.read().any():
        raise _not_read(weights, module, f"torchao's {note['_type']} with zero points")
    return _common_parts(module, _part(weights, module, "_weight_qdata"), _part(weights, module, "_weight_scale"))


def _read_quanto(weights: OpenWeights, module: str) -> dict[str, TensorEntry]:
    if f"{module}.weight._data" not in weights:
        raise _not_read(weights, module, "quanto's 2 or 4 bits")
    return _common_parts(module, _part(weights, module, "weight._data"), _part(weights, module, "weight._scale"))


def _not_read(weights: OpenWeights, module: str, what: str) -> CheckpointError:
    where = f"{weights.path} holds {shown(module)}.weight"
    return CheckpointError(f"{where} in {shown(what)}, which is not read; {INSTEAD}")


LIBRARIES: tuple[Library, ...] = (
    Library(
        "bitsandbytes",
        r"weight\.quant_state\.bitsandbytes__(nf4|fp4)",
        r"weight(\.(nested_)?(absmax|quant_map)|\.quant_state\.\w+)?",
        _read_4_bits,
    ),
    Library("bitsandbytes", "SCB", "weight|SCB|weight_format", _read_8_bits),
    Library("torchao", "_weight_qdata", r"_weight_\w+", _read_torchao),
    Library(
        "quanto",
        r"weight\._data(\._data)?",
        r"weight\._(data|data\._data|scale|shift)|(in|out)put_scale",
        _read_quanto,
    ),
)
"""The libraries whose weights are read, in the order in which they are looked for."""


def check_method(declared: Mapping[str, Any] | None, source: str | Path) -> None:
    """Refuse weights that, says their config.json, a library quantized whose files are not read.

    Args: declared: the content of the config.json; None if there is none.
    Raises: CheckpointError that names the method.
    """
    config = (declared or {}).get("quantization_config")
    method = config.get("quant_method") if isinstance(config, dict) else None
    if method is not None and not str(method).startswith(tuple(library.name for library in LIBRARIES)):
        raise CheckpointError(f"{source} is quantized by {shown(str(method))}, which is not read; {INSTEAD}")
