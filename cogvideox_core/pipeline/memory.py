"""How much memory a device has left, and whether a guided forward fits into it."""

from __future__ import annotations

from pathlib import Path

import torch

from ..kernels.devices import free_bytes
from ..models.config import TransformerConfig

_WIDTHS_PER_TOKEN = 12
"""Activations of a block per token at its peak, in multiples of the width, where every operation writes its result to
memory; kernels that fuse operations need less."""


def free_memory(device: torch.device) -> int | None:
    """Free bytes of a device, with PyTorch's own reserve on a GPU; None where the system does not say."""
    if device.type != "cpu":
        return free_bytes(device)
    table = Path("/proc/meminfo")
    if not table.exists():
        return None
    fields = dict(line.split(":", 1) for line in table.read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) * 1024


def forward_nbytes(config: TransformerConfig, tokens: int, batch: int, dtype: torch.dtype) -> int:
    """Estimated bytes of a forward without the weights; `tokens` of text and video in each row of the batch."""
    return _WIDTHS_PER_TOKEN * config.width * tokens * batch * dtype.itemsize


def fits_in_one(config: TransformerConfig, tokens: int, batch: int, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether a forward of `batch` rows (both halves of guidance) fits into the free memory of an accelerator.

    On a CPU memory can be swapped, and of some devices its size is unknown: there it counts as fitting.
    """
    if device.type == "cpu":
        return True
    free = free_memory(device)
    return free is None or forward_nbytes(config, tokens, batch, dtype) <= free
