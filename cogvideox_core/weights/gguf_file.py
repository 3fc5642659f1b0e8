"""One .gguf file, mapped: 16- and 32-bit numbers as they are, quantized ones as their blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .entries import TensorEntry
from .errors import CheckpointError, listed, shown
from .ggml_blocks import FORMATS

OWN_METADATA = "cogvideox."
"""Prefix of the metadata that this pack writes."""

_PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class GGUFFile:
    """Tensors of one file. The header is read at once; a tensor's pages are read when it is used.

    Attributes: entries, metadata: as of every reader; a quantized tensor's entry is the bytes of its blocks.
    Raises: CheckpointError if the file is damaged or in a number format that is not read; ImportError without gguf.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            from gguf import GGUFReader
        except ImportError as error:
            raise ImportError(f"{path.name} needs the package gguf; run: pip install gguf") from error
        try:
            reader: Any = GGUFReader(path, "r")
        except (OSError, MemoryError) as error:
            raise CheckpointError(
                f"{path} cannot be read ({error}); check that it is a file you may read, and that there is room to map "
                "it (Windows: enlarge the page file)"
            ) from error
        except Exception as error:  # the reader passes on whatever a damaged file causes
            raise CheckpointError(f"{path} {_fault(error)}") from error
        if not reader.tensors:
            raise CheckpointError(f"{path} is a GGUF file without tensors; download or copy it again")
        strange = [f"{part.name} ({part.tensor_type.name})" for part in reader.tensors if not _is_read(part)]
        if strange:
            raise CheckpointError(
                f"{path} holds number formats that are not read: {listed(strange)}; give one of "
                f"{listed([*_PLAIN, *FORMATS], 8)}"
            )
        self.metadata = {
            key.removeprefix(OWN_METADATA): str(field.contents())
            for key, field in reader.fields.items()
            if key.startswith(("general.", OWN_METADATA))
        }
        self.entries = {part.name: _entry(part, path) for part in reader.tensors}


def _fault(error: Exception) -> str:
    """Why gguf could not read a file, in words for whoever downloaded it."""
    reason = shown(str(error)) or type(error).__name__
    if "GGMLQuantizationType" in reason:
        return "holds a number format that this release of gguf does not know; run: pip install -U gguf"
    return f"is no whole GGUF file ({reason}); download or copy it again"


def _is_read(part: Any) -> bool:
    return part.tensor_type.name in (*_PLAIN, *FORMATS)


def _entry(part: Any, path: Path) -> TensorEntry:
    """A tensor as the file's header describes it. GGUF lists a shape in the reverse of PyTorch's order."""
    shape = tuple(int(size) for size in reversed(part.shape))
    kind = part.tensor_type.name
    if kind in _PLAIN:
        return TensorEntry(shape, _PLAIN[kind], lambda: _bytes(part).view(_PLAIN[kind]).reshape(shape))
    blocks, rest = divmod(shape[-1], FORMATS[kind].numbers)
    if rest:
        raise CheckpointError(f"{path} has {shown(part.name)} of {shape[-1]} columns in {kind}; download it again")
    stored = (*shape[:-1], blocks * FORMATS[kind].nbytes)
    return TensorEntry(stored, torch.uint8, lambda: _bytes(part).reshape(stored), kind)


def _bytes(part: Any) -> Tensor:
    """The mapped bytes of a tensor, [bytes]. PyTorch warns that they must not be written to, which nothing does."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(part.data.reshape(-1).view("uint8"))
