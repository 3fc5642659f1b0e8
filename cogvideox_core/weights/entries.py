"""Tensors by key that are read when they are asked for: what files hold, and the same under other names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

Shape = tuple[int, ...]


class Entry(NamedTuple):
    """One tensor: shape and dtype are known without reading it; `codec` names its number format if it is small."""

    shape: Shape
    dtype: torch.dtype
    read: Callable[[], Tensor]
    codec: str | None = None


class Weights(Mapping[str, Tensor]):
    """Tensors by key. Shapes and dtypes come from headers alone.

    Args:
        path: what was opened, for messages.
        entries: the tensors.
        metadata: free text the writer left beside them.
        form: how they were stored, for whoever wants to know; see `inspect`.
    """

    def __init__(
        self, path: Path, entries: Mapping[str, Entry], metadata: Mapping[str, str], form: tuple[str, ...] = ()
    ) -> None:
        self.path = path
        self.entries = dict(entries)
        self.metadata = dict(metadata)
        self.form = form

    @property
    def shapes(self) -> dict[str, Shape]:
        return {key: entry.shape for key, entry in self.entries.items()}

    @property
    def dtypes(self) -> dict[str, torch.dtype]:
        return {key: entry.dtype for key, entry in self.entries.items()}

    def __getitem__(self, key: str) -> Tensor:
        return self.entries[key].read()

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def with_entries(self, entries: Mapping[str, Entry], told: str | None = None) -> Weights:
        """The same file with other keys; `told` adds to its form."""
        return Weights(self.path, entries, self.metadata, (*self.form, told) if told else self.form)
