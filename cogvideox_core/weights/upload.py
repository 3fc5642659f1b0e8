"""Weights to a GPU faster than its driver takes them from a mapped file.

The driver copies pages with one thread, and sends nothing meanwhile. Here all threads of the CPU fill one pinned buffer
while the other is being sent.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .packed_weight import PackedWeight

_BYTES = 1 << 26  # of a buffer
_ALIGNMENT = 256  # bytes


class Uploads:
    """Copies of tensors on a device.

    Args:
        device: where they go; on the CPU nothing is pinned, and the same happens.
        nbytes: of each of the two buffers.
    """

    def __init__(self, device: torch.device, nbytes: int = _BYTES) -> None:
        self.device = device
        self._on_gpu = device.type == "cuda"
        self._buffers = [torch.empty(nbytes, dtype=torch.uint8, pin_memory=self._on_gpu) for _ in range(2)]
        self._sent: list[Any] = [None, None]  # events: what lay in a buffer is on the device
        self._turn, self._filled = 0, 0

    def copy(self, tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """The tensor on the device, in another dtype if asked; on a GPU it is there when its stream comes to it."""
        if isinstance(tensor, PackedWeight) or tensor.device.type != "cpu":
            return tensor.to(device=self.device, dtype=dtype)
        copy = torch.empty(tensor.shape, dtype=dtype or tensor.dtype, device=self.device)
        source, place, size = tensor.detach().reshape(-1), copy.view(-1), copy.element_size()
        start = 0
        while start < len(source):
            stop = min(start + self._room(size) // size, len(source))
            part = self._take((stop - start) * size).view(copy.dtype)
            part.copy_(source[start:stop])
            place[start:stop].copy_(part, non_blocking=True)
            start = stop
        return copy

    def _room(self, least: int) -> int:
        """Bytes that are free in the buffer whose turn it is, at least so many."""
        buffer = self._buffers[self._turn]
        if len(buffer) - self._filled < least:
            self._next()
        return len(self._buffers[self._turn]) - self._filled

    def _take(self, nbytes: int) -> Tensor:
        start = self._filled
        self._filled = -(-(start + nbytes) // _ALIGNMENT) * _ALIGNMENT
        return self._buffers[self._turn][start : start + nbytes]

    def _next(self) -> None:
        """Send what is in a buffer on its way, and wait for the other to have arrived."""
        if self._on_gpu:
            self._sent[self._turn] = torch.cuda.current_stream(self.device).record_event()
        self._turn, self._filled = 1 - self._turn, 0
        if (sent := self._sent[self._turn]) is not None:
            sent.synchronize()
