"""One .safetensors file, memory-mapped. What cannot be opened is explained, never executed."""

from __future__ import annotations

import json
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .entries import Shape, TensorEntry
from .errors import CheckpointError, listed, shown
from .file_bytes import REFUSALS, FileBytes

# Names of the safetensors header. The packed 4- and 6-bit types are left out: nothing here computes with them.
_DTYPES: dict[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "U16": torch.uint16,
    "I16": torch.int16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}

DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
"""The header's name of each dtype."""

_LARGEST_HEADER = 100_000_000  # bytes; safetensors reads none that is larger

# How other things begin that people save or download under this name.
_BEGINNINGS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "is a Git LFS pointer, not the weights; fetch them with `git lfs pull`"),
    (b"<", "is a web page, not weights; download the file again, logged in if its site asks for that"),
)


class SafetensorsFile:
    """Tensors of one file. The header is read at once; a tensor's pages are read when it is used.

    safetensors checks the file. The offsets of its tensors come from the header itself (8 bytes of length, then JSON),
    since releases before 0.6 do not offer them.

    Attributes:
        entries: every tensor, mapped when it is read; nothing is copied.
        metadata: free text the writer left in the header.
    Raises: CheckpointError if the file is not whole and valid.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.metadata, header, data_start = _open_header(path)
        except SafetensorError as error:
            raise CheckpointError(f"{path} {_fault(path, error)}") from error
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read ({error}); check that it is a file you may read") from error
        if unknown := _unknown_dtypes(header):
            raise CheckpointError(f"{path} {unknown}")
        # Every tensor gets a storage of its own, as from safetensors' get_tensor, which takes longer for each.
        self._bytes = FileBytes(path)
        self.entries = {
            key: self._entry(part, data_start)
            for key, part in sorted(header.items(), key=lambda item: item[1]["data_offsets"])
        }

    def _entry(self, part: dict[str, Any], data_start: int) -> TensorEntry:
        """A tensor as the header describes it, at offsets that count from `data_start`."""
        shape, dtype = tuple(part["shape"]), _DTYPES[part["dtype"]]
        start, stop = (data_start + offset for offset in part["data_offsets"])
        return TensorEntry(shape, dtype, partial(self._read, start, stop, shape, dtype))

    def _read(self, start: int, stop: int, shape: Shape, dtype: torch.dtype) -> Tensor:
        return torch.empty(0, dtype=dtype).set_(self._bytes.storage(start, stop)).view(shape)


def _open_header(path: Path) -> tuple[dict[str, str], dict[str, Any], int]:
    """A file's metadata, what it says of each tensor, and at which byte of it their numbers begin.

    Raises: SafetensorError if the file is not whole and valid; OSError if it cannot be read.
    """
    try:
        with safe_open(str(path), framework="np", device="cpu"):  # "pt" would map it twice
            pass
        is_checked = True
    except REFUSALS:  # it maps the file; if that is not the reason, reading fails too
        is_checked = False
    header, data_start = _read_header(path)
    metadata = header.pop("__metadata__", {})
    if not is_checked:
        _check_whole(header, path.stat().st_size - data_start)
    return metadata, header, data_start


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The header of a file, and at which byte of it the numbers begin."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(_LARGEST_HEADER, path.stat().st_size):
            raise SafetensorError("it is longer than the file")
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            raise SafetensorError("it is no JSON") from error
    # safetensors takes lists of the values too
    if not isinstance(header, dict) or not all(isinstance(part, dict) for part in header.values()):
        raise SafetensorError("it describes a tensor by something else than an object")
    return header, 8 + length


def _check_whole(parts: dict[str, Any], size: int) -> None:
    """Check what safetensors checks: that the tensors take all `size` bytes behind the header, one after the other."""
    end = 0
    try:
        for part in sorted(parts.values(), key=lambda part: part["data_offsets"]):
            start, stop = part["data_offsets"]
            numbers = prod(part["shape"])
            whole = all(type(number) is int and number >= 0 for number in (start, stop, *part["shape"]))
            dtype = _DTYPES.get(part["dtype"])
            if not whole or start != end or (dtype is not None and stop - start != numbers * dtype.itemsize):
                raise ValueError
            end = stop
    except (ValueError, TypeError, KeyError) as error:
        raise SafetensorError("its tensors do not follow each other") from error
    if end != size:
        raise SafetensorError("its tensors do not end where the file does")


def _unknown_dtypes(header: dict[str, Any]) -> str:
    """What is wrong with the tensors whose number type is not read; empty if there are none."""
    dtypes = {key: part.get("dtype") for key, part in header.items() if isinstance(part, dict)}
    unknown = [f"{key} ({name})" for key, name in dtypes.items() if isinstance(name, str) and name not in _DTYPES]
    return f"holds number types that are not read: {listed(unknown)}; give weights in 16 or 32 bits" if unknown else ""


def _fault(path: Path, error: SafetensorError) -> str:
    """Why safetensors refused the file, in words for whoever downloaded it."""
    size, reason = path.stat().st_size, shown(str(error))
    with path.open("rb") as file:
        head = file.read(32)
        # A header begins with its length in 8 bytes and a brace; the length may look like another file's beginning.
        if head[8:9] != b"{":
            return _foreign(head, size, reason)
        length = int.from_bytes(head[:8], "little")
        if 8 + length > size and length <= _LARGEST_HEADER:
            return _cut_short(size, f"{8 + length} bytes of header alone")
        file.seek(8)
        header = _parsed(file.read(min(length, _LARGEST_HEADER)))
    data = _data_bytes(header)
    excess = size - 8 - length - data
    if data and excess < 0:
        return _cut_short(size, f"{size - excess} bytes")
    if data and excess > 0:
        return f"holds {excess} bytes more than its header describes; download or copy it again"
    return _unknown_dtypes(header) or f"has a damaged header ({reason}); download or copy it again"


def _foreign(head: bytes, size: int, reason: str) -> str:
    """What a file is that does not begin like safetensors."""
    for beginning, what in _BEGINNINGS:
        if head.startswith(beginning):
            return what
    if size < 9:
        return f"holds {size} bytes and no weights; download or copy it again"
    return f"is no safetensors file ({reason}); download it again, or give another file"


def _cut_short(size: int, needed: str) -> str:
    return f"is cut short: {size} bytes are there of {needed}; download or copy it again"


def _parsed(header: bytes) -> dict[str, Any]:
    """The object a header is, as far as it can be read; else an empty one."""
    try:
        return json.loads(header)
    except (ValueError, RecursionError):
        return {}


def _data_bytes(header: dict[str, Any]) -> int:
    """Bytes of tensor data a header announces; 0 where it does not say."""
    offsets = [part.get("data_offsets") for part in header.values() if isinstance(part, dict)]
    ends = [pair[1] for pair in offsets if isinstance(pair, list) and len(pair) == 2]
    return max((end for end in ends if isinstance(end, int)), default=0)
