"""Writing weight files tensor by tensor: no more than one is in memory, and a file is whole or not there."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from .codecs import CODECS
from .entries import Entry
from .gguf_file import OWN_METADATA
from .packed_weight import PackedWeight
from .safetensors_file import DTYPE_NAMES

Progress = Callable[[int], None]
"""Told the bytes of each tensor that was written."""

_HEADER_ALIGNMENT = 8
GGUF_DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
"""Plain numbers a .gguf file can hold, and GGML's names of them."""


def ignore_progress(number: int) -> None:
    """No progress bar."""


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to; it becomes `path` at the end, or nothing is left."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        yield part
        os.replace(part, path)
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def entry_bytes(entry: Entry) -> int:
    """Bytes of the numbers in a file, without the scales they may have."""
    codec = CODECS[entry.codec] if entry.codec else None
    if codec is None:
        return torch.Size(entry.shape).numel() * entry.dtype.itemsize
    return torch.Size(codec.stored_shape(entry.shape)).numel()  # all of them store bytes


def write_safetensors(
    path: Path,
    entries: Mapping[str, Entry],
    metadata: Mapping[str, str] | None = None,
    progress: Progress = ignore_progress,
) -> None:
    """One .safetensors file. Each entry must read as a plain tensor of its shape and dtype."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    end = 0
    for key, entry in entries.items():
        start, end = end, end + entry_bytes(entry)
        header[key] = {"dtype": DTYPE_NAMES[entry.dtype], "shape": list(entry.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _HEADER_ALIGNMENT)
    with whole_file(path) as part, part.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for entry in entries.values():
            _write_tensor(file, entry)
            progress(entry_bytes(entry))


def _write_tensor(file: BinaryIO, entry: Entry) -> None:
    tensor = entry.read()
    assert tuple(tensor.shape) == entry.shape and tensor.dtype == entry.dtype
    if tensor.numel():
        file.write(_bytes(tensor).numpy().data)


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def write_gguf(
    path: Path,
    entries: Mapping[str, Entry],
    architecture: str,
    config: Mapping[str, Any] | None = None,
    progress: Progress = ignore_progress,
) -> None:
    """One .gguf file. An entry reads as a plain tensor in 16 or 32 bits, or as blocks of GGML.

    Args: config: what diffusers' config.json says, which goes along as JSON.
    Raises: ImportError without the package gguf.
    """
    try:
        from gguf import GGMLQuantizationType, GGUFWriter
    except ImportError as error:
        raise ImportError(f"writing {path.name} needs the package gguf; run: pip install gguf") from error
    with whole_file(path) as part:
        writer: Any = GGUFWriter(part, architecture)
        if config:
            writer.add_string(OWN_METADATA + "config", json.dumps(config))
        for key, entry in entries.items():
            kind = GGMLQuantizationType[entry.codec or GGUF_DTYPES[entry.dtype]]
            # Any dtype but uint8: the shape is that of the numbers.
            writer.add_tensor_info(key, entry.shape, np.dtype(np.float32), entry_bytes(entry), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for entry in entries.values():
            tensor = entry.read()
            data = tensor.stored["data"] if isinstance(tensor, PackedWeight) else tensor
            writer.write_tensor_data(_bytes(data).numpy())
            progress(entry_bytes(entry))
        writer.close()
