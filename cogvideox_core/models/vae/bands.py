"""How a feature map is cut into bands of rows, and memory for one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ...kernels.devices import copies_aside


class BandLimits(NamedTuple):
    """About how many values a band holds: an eighth of the map, within these limits.

    Bands of fewer values take more time for their calls than for their work, and GPU libraries run out of indices at
    2^31 values.
    """

    least: int
    most: int


ON_CPU, ON_GPU = BandLimits(1 << 22, 1 << 26), BandLimits(1 << 26, 1 << 28)
_SHARE = 8


class Sized(Protocol):
    """What has a dtype and a device: a tensor or a feature map."""

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def device(self) -> torch.device: ...


def bands(shape: torch.Size, device: torch.device, elements_per_row: float | None = None) -> Iterator[tuple[int, int]]:
    """First and last row, exclusive, of bands that share the rows of a map evenly.

    Args:
        shape: [B, C, T, H, W].
        device: that computes them.
        elements_per_row: values that one row takes while it is computed; None for those of the map's rows.
    """
    total = shape[3] * (elements_per_row or math.prod(shape) / shape[3])
    least, most = ON_CPU if device.type == "cpu" else ON_GPU
    size = min(max(total / _SHARE, least), most)
    number = min(shape[3], math.ceil(total / size)) or 1
    edges = {shape[3] * index // number // 2 * 2 for index in range(number)}  # even, so that tiles of two rows fit
    return pairwise(sorted(edges | {shape[3]}))


def empty(shape: Sequence[int], like: Sized, device: torch.device | None = None) -> Tensor:
    """A map of shape [B, C, T, H, W] to be filled, in the dtype of another and on its device or a given one.

    Its channels are last in memory, which is how convolutions read. A map in main memory for a GPU is pinned.
    """
    device = device or like.device
    options: dict[str, Any] = {"pin_memory": True} if copies_aside(like.device) and device.type == "cpu" else {}
    return torch.empty(tuple(shape), dtype=like.dtype, device=device, memory_format=torch.channels_last_3d, **options)
