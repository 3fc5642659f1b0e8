"""The bytes of a file: mapped, or, where the system refuses to map it, read in parts when they are asked for.

Windows sets aside as much of its page file as a private mapping is large, and refuses (error 1455) what that does not
hold; Linux may under `ulimit -v`, and some network disks map nothing.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from .errors import CheckpointError, shown

logger = logging.getLogger("cogvideox")

REFUSALS = (RuntimeError, OSError, MemoryError)
"""What PyTorch, safetensors, numpy and Python raise if the system refuses to map a file, or has no memory."""

_PART = 1 << 26  # bytes read at a time


class FileBytes:
    """The bytes of a file, of which each part can be had as a storage.

    Attributes:
        mapped: the mapping; None if it was refused.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.mapped: Any = None
        try:
            self.mapped = torch.UntypedStorage.from_file(str(path), False, path.stat().st_size)
        except REFUSALS as error:
            tell_refusal(path, error)

    def storage(self, start: int, stop: int) -> Any:
        """The bytes from `start` up to `stop`, for a tensor.

        Raises: CheckpointError if they are not mapped and cannot be read, or do not fit into memory.
        """
        if self.mapped is not None:
            return self.mapped[start:stop]
        try:
            return self._read(start, stop)
        except OSError as error:
            raise CheckpointError(f"{self.path} cannot be read ({error}); copy it to another disk") from error
        except (RuntimeError, MemoryError) as error:
            if is_full_memory(error):
                raise no_room(self.path, stop - start) from error
            raise

    def _read(self, start: int, stop: int) -> Any:
        content = torch.empty(stop - start, dtype=torch.uint8)
        with self.path.open("rb") as file:
            file.seek(start)
            for part in content.split(_PART):
                file.readinto(part.numpy().data)
        return content.untyped_storage()


def tell_refusal(path: Path, error: BaseException) -> None:
    """Say in the log that a file is read and not mapped, and what that costs."""
    reason = shown((str(error).splitlines() or [type(error).__name__])[0], None)
    logger.warning(
        "%s is read in parts, which takes as much memory as it is large: the system refused to map it (%s)",
        path.name,
        reason,
    )


def is_full_memory(error: BaseException) -> bool:
    """Whether memory of the CPU or of an Apple GPU is full, by PyTorch's words on any system."""
    signs = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)
    )


def no_room(path: Path, nbytes: int) -> CheckpointError:
    """The error for a file that is read, not mapped, where memory has no room for `nbytes` of it."""
    return CheckpointError(
        f"{path} is not mapped but read, and memory has no {nbytes / 1e9:.1f} GB left for it; close other programs, "
        "enlarge the page file (Windows: Advanced system settings, Performance, Virtual memory), or take an fp8 or "
        "int8 file of the model, which is half as large"
    )
