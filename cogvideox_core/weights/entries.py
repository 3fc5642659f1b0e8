"""Open weights: tensors by key, with shape and dtype known at once and numbers read when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

Shape = tuple[int, ...]


class TensorEntry(NamedTuple):
    """One tensor of a file, not read yet.

    Attributes:
        shape, dtype: those of the tensor that `read` gives.
        read: gives the tensor.
        codec: the name in CODECS of a quantized tensor's format; None for ordinary numbers. As long as the dtype is
            uint8, the entry is the format's "data", of which `with_packed_weights` makes a PackedWeight.
    """

    shape: Shape
    dtype: torch.dtype
    read: Callable[[], Tensor]
    codec: str | None = None


class OpenWeights(Mapping[str, Tensor]):
    """The tensors of one or several files by key. Opening reads headers only.

    Args:
        path: what was opened; names the weights in messages.
        entries: the tensors.
        metadata: free text that the writer left in the header.
        form: how they are stored, as words that `inspect` prints: endings, formats, whose key names.
    """

    def __init__(
        self, path: Path, entries: Mapping[str, TensorEntry], metadata: Mapping[str, str], form: tuple[str, ...] = ()
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

    def __contains__(self, key: object) -> bool:  # a Mapping's own would read the tensor
        return key in self.entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def with_entries(self, entries: Mapping[str, TensorEntry], form: str | None = None) -> OpenWeights:
        """The same file with these entries in place of its own, and one more word about its form."""
        return OpenWeights(self.path, entries, self.metadata, (*self.form, form) if form else self.form)
