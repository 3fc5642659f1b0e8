"""Copying weights from a mapped file to a GPU, faster than the driver does it by itself.

The driver reads the pages with one thread, and transfers nothing meanwhile. Here all threads of the CPU fill one pinned
buffer while the other is being transferred.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..kernels.devices import copies_aside
from .packed_weight import PackedWeight

_BYTES = 1 << 26  # of a buffer
_ALIGNMENT = 256  # bytes


class Uploads:
    """Copies tensors to a device through two buffers.

    Args:
        device: where they go. For the CPU, nothing is pinned; the rest is the same.
        nbytes: size of each buffer.
    """

    def __init__(self, device: torch.device, nbytes: int = _BYTES) -> None:
        self.device = device
        self._on_gpu = copies_aside(device)
        self._buffers = [torch.empty(nbytes, dtype=torch.uint8, pin_memory=self._on_gpu) for _ in range(2)]
        self._sent: list[Any] = [None, None]  # for each buffer, the event after its transfer
        self._current = 0  # which of the two buffers is being filled
        self._filled = 0  # bytes of it that are in use

    def copy(self, tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """A tensor [...] on the device, in its dtype or another.

        On a GPU the transfer may still be going on; what its current stream computes afterwards waits for it.
        """
        if isinstance(tensor, PackedWeight) or tensor.device.type != "cpu":
            return tensor.to(device=self.device, dtype=dtype)
        copy = torch.empty(tensor.shape, dtype=dtype or tensor.dtype, device=self.device)
        source, target = tensor.detach().reshape(-1), copy.view(-1)  # [numbers], both
        size = copy.element_size()
        start = 0
        while start < len(source):
            stop = min(start + self._free_bytes(size) // size, len(source))
            part = self._reserve((stop - start) * size).view(copy.dtype)
            part.copy_(source[start:stop])  # casts too
            target[start:stop].copy_(part, non_blocking=True)
            start = stop
        return copy

    def _free_bytes(self, least: int) -> int:
        """Bytes that are free in the current buffer; of the other one, if fewer than `least` are."""
        if len(self._buffers[self._current]) - self._filled < least:
            self._switch()
        return len(self._buffers[self._current]) - self._filled

    def _reserve(self, nbytes: int) -> Tensor:
        """The next free bytes of the current buffer, [nbytes]."""
        start = self._filled
        self._filled = -(-(start + nbytes) // _ALIGNMENT) * _ALIGNMENT
        return self._buffers[self._current][start : start + nbytes]

    def _switch(self) -> None:
        """Go to the other buffer, and wait until its last transfer is done: then it may be filled again."""
        if self._on_gpu:
            self._sent[self._current] = torch.cuda.current_stream(self.device).record_event()
        self._current, self._filled = 1 - self._current, 0
        if (sent := self._sent[self._current]) is not None:
            sent.synchronize()
