"""One PyTorch pickle (.pt, .pth, .bin, .ckpt), read with `weights_only=True`: no code in it is executed."""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .entries import TensorEntry
from .errors import CheckpointError, shown

# The keys under which training programs store the weights among other things, in the order they are looked for.
_CONTAINERS = ("module", "state_dict", "model", "ema", "params")


class TorchFile:
    """Tensors of one pickle. A zip archive, as PyTorch writes since 1.6, is mapped; an older pickle is read at once.

    Attributes: entries, metadata: as of every reader.
    Raises: CheckpointError if the file is damaged, would run code, or holds no tensors by name.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metadata: dict[str, str] = {}
        try:
            content = _load(path)
        except pickle.UnpicklingError as error:
            raise CheckpointError(f"{path} {_refusal(error)}; give the weights as .safetensors") from error
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read ({error}); check that it is a file you may read") from error
        except Exception as error:  # torch.load has no error of its own: it passes on whatever a damaged file causes
            raise CheckpointError(f"{path} is damaged ({shown(_reason(error))}); download or copy it again") from error
        tensors = _named_tensors(content)
        if not tensors:
            raise CheckpointError(f"{path} holds no tensors by name; give a checkpoint of a model")
        self.entries = {key: _entry(tensor) for key, tensor in tensors.items()}


def _load(path: Path) -> Any:
    """What a pickle holds. PyTorch takes a name in .safetensors for that form, so such a pickle is read, not mapped."""
    options: dict[str, Any] = {"map_location": "cpu", "weights_only": True}
    if path.suffix.lower() == ".safetensors":
        with path.open("rb") as file:
            return torch.load(file, **options)
    return torch.load(path, mmap=zipfile.is_zipfile(path) or None, **options)


def _entry(tensor: Tensor) -> TensorEntry:
    return TensorEntry(tuple(tensor.shape), tensor.dtype, lambda: tensor)


def _named_tensors(content: Any, depth: int = 3) -> dict[str, Tensor]:
    """The tensors of a checkpoint by key, also from inside the dict that a training program may have put them in."""
    if not isinstance(content, dict) or not depth:
        return {}
    for name in _CONTAINERS:
        if found := _named_tensors(content.get(name), depth - 1):
            return found
    return {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}


def _refusal(error: Exception) -> str:
    """Why PyTorch refused a pickle, in our words: its own text says how to run the code all the same."""
    code = re.search(r"(?:GLOBAL|Unsupported (?:global|operand|class))\W+(?:GLOBAL )?([\w.]+)", str(error))
    if code is None:
        return "is a pickle that holds no PyTorch checkpoint"
    if code[1].startswith("torchao."):
        return "is a pickle of torchao's tensors, which would run its code to be read"
    return f"is a pickle that would run code ({shown(code[1])}) to be read, which is not done"


def _reason(error: Exception) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0].split(". ")[0].strip(" .:") or type(error).__name__
