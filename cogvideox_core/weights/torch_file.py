"""One PyTorch pickle (.pt, .pth, .bin, .ckpt), read with `weights_only=True`: no code in it is executed."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .entries import TensorEntry
from .errors import CheckpointError, shown
from .file_bytes import REFUSALS, is_full_memory, no_room, tell_refusal

# The keys under which training programs store the weights among other things, in the order they are looked for.
_CONTAINERS = ("module", "state_dict", "model", "ema", "params")


class _LeftOut:
    """Stands for a numpy array of a pickle and for all that makes one: takes what it is given, and keeps nothing.

    Training programs store numpy's random state beside the weights. numpy itself is kept out of this: an array that is
    told to hold objects takes any bytes for their addresses.
    """

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


_OTHER_FORM = ".safetensors"  # PyTorch takes a path with this ending for that form, whatever is in the file

# Under the names of numpy 1 and numpy 2; an array without numbers is made of `bytes()`.
_NUMPY_ARRAYS = (
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "numpy.ndarray",
    "numpy.dtype",
    "builtins.bytes",
)


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
            if is_full_memory(error):
                raise no_room(path, path.stat().st_size) from error
            raise CheckpointError(f"{path} is damaged ({shown(_reason(error))}); download or copy it again") from error
        tensors = _named_tensors(content)
        if not tensors:
            raise CheckpointError(f"{path} holds no tensors by name; give a checkpoint of a model")
        self.entries = {key: _entry(tensor) for key, tensor in tensors.items()}


def _load(path: Path) -> Any:
    """What a pickle holds: mapped if it can be, else read, one tensor after the other."""
    if not zipfile.is_zipfile(path) or path.suffix.lower() == _OTHER_FORM:
        return _load_numbers(path, mmap=False)
    try:
        return _load_numbers(path, mmap=True)
    except REFUSALS as refusal:
        content = _load_numbers(path, mmap=False)  # fails once more if the file is damaged
        tell_refusal(path, refusal)
        return content


def _load_numbers(path: Path, *, mmap: bool) -> Any:
    options: dict[str, Any] = {"map_location": "cpu", "weights_only": True}
    with _numpy_arrays_left_out():
        if mmap:
            return torch.load(path, mmap=True, **options)
        with path.open("rb") as file:
            return torch.load(file, **options)


@contextmanager
def _numpy_arrays_left_out() -> Iterator[None]:
    """Let `torch.load` pass over numpy's arrays, and have nothing else that the process allows for other files."""
    others = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        with torch.serialization.safe_globals([(_LeftOut, name) for name in _NUMPY_ARRAYS]):
            yield
    finally:
        torch.serialization.add_safe_globals(others)


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


# Where PyTorch's sentences name what they refused: a global of the file, or the type of what is made or called.
_REFUSED = (
    re.compile(r"GLOBAL (?P<name>\S+) (was not an allowed global|whose module)"),
    re.compile(r"`add_safe_globals`,? but got <class '(?P<name>[\w.]+)'>"),
    re.compile(r"unrecognized function <(?:class|function|built-in \w+) '?(?P<name>[\w.]+)"),
)


def _refusal(error: Exception) -> str:
    """Why PyTorch refused a pickle, in our words: its own text says how to run the code all the same."""
    matches = (pattern.search(str(error)) for pattern in _REFUSED)
    name = next((match["name"].removeprefix("builtins.") for match in matches if match), None)
    if name is None:
        return "is a pickle that holds no PyTorch checkpoint"
    if name.startswith("torchao."):
        return "is a pickle of torchao's tensors, which would run its code to be read"
    return f"is a pickle that would run code ({shown(name)}) to be read, which is not done"


def _reason(error: Exception) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0].split(". ")[0].strip(" .:") or type(error).__name__
