"""Writing weight files: one tensor at a time in memory, and a file that is complete or not there at all."""

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
from .entries import TensorEntry
from .gguf_file import OWN_METADATA
from .packed_weight import PackedWeight
from .safetensors_file import DTYPE_NAMES

BytesWritten = Callable[[int], None]
"""Called after each tensor with the number of its bytes."""

_HEADER_ALIGNMENT = 8
GGUF_DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
"""The dtypes that a .gguf file can hold without quantizing, and GGML's names of them."""


def no_progress(nbytes: int) -> None:
    """For callers who do not ask how far the writing is."""


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder to write to; renamed to `path` at the end, deleted after an error."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        yield part
        os.replace(part, path)
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def entry_bytes(entry: TensorEntry) -> int:
    """Bytes that the numbers of an entry take in a file; scales are extra."""
    codec = CODECS[entry.codec] if entry.codec else None
    if codec is None:
        return torch.Size(entry.shape).numel() * entry.dtype.itemsize
    return torch.Size(codec.stored_shape(entry.shape)).numel()  # stored as bytes


def write_safetensors(
    path: Path,
    entries: Mapping[str, TensorEntry],
    metadata: Mapping[str, str] | None = None,
    on_written: BytesWritten = no_progress,
) -> None:
    """Write one .safetensors file. Each entry must read as a plain tensor of its shape and dtype.

    Raises: OSError if the file cannot be written, and what `on_written` raises; no file is left then.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    end = 0
    for key, entry in entries.items():
        start, end = end, end + entry_bytes(entry)
        header[key] = {"dtype": DTYPE_NAMES[entry.dtype], "shape": list(entry.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _HEADER_ALIGNMENT)
    with atomic_write(path) as part, part.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for entry in entries.values():
            _write_tensor(file, entry)
            on_written(entry_bytes(entry))


def _write_tensor(file: BinaryIO, entry: TensorEntry) -> None:
    tensor = entry.read()
    assert tuple(tensor.shape) == entry.shape and tensor.dtype == entry.dtype
    if tensor.numel():
        file.write(_bytes(tensor).numpy().data)


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def write_gguf(
    path: Path,
    entries: Mapping[str, TensorEntry],
    architecture: str,
    config: Mapping[str, Any] | None = None,
    on_written: BytesWritten = no_progress,
) -> None:
    """Write one .gguf file. An entry reads as a plain tensor in 16 or 32 bits, or as blocks of GGML.

    Args:
        architecture: the model's name in the header.
        config: the content of diffusers' config.json, stored in the header.
    Raises: ImportError without the package gguf; otherwise as `write_safetensors`.
    """
    try:
        from gguf import GGMLQuantizationType, GGUFWriter
    except ImportError as error:
        raise ImportError(f"writing {path.name} needs the package gguf; run: pip install gguf") from error
    with atomic_write(path) as part:
        writer: Any = GGUFWriter(part, architecture)
        if config:
            writer.add_string(OWN_METADATA + "config", json.dumps(config))
        for key, entry in entries.items():
            kind = GGMLQuantizationType[entry.codec or GGUF_DTYPES[entry.dtype]]
            # GGUFWriter would take uint8 for the dtype of stored bytes; any other says that `shape` counts the numbers.
            writer.add_tensor_info(key, entry.shape, np.dtype(np.float32), entry_bytes(entry), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for entry in entries.values():
            tensor = entry.read()
            data = tensor.stored["data"] if isinstance(tensor, PackedWeight) else tensor
            writer.write_tensor_data(_bytes(data).numpy())
            on_written(entry_bytes(entry))
        writer.close()
