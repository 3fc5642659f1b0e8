"""Tensors of a module as one block of bytes, and the two device buffers through which such blocks pass.

Offloading (offload.py) copies the blocks of a model to the device in turn: while one buffer is computed with, the other
is filled. PackedWeights stay packed on the way.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..kernels.devices import copies_aside
from ..weights.packed_weight import PackedWeight

logger = logging.getLogger("cogvideox")

_ALIGNMENT = 256  # bytes, as for CUDA's own allocations


class _Slot(NamedTuple):
    """Where a module holds a tensor: its dictionary of parameters or of buffers, and the name in it."""

    holder: dict[str, Any]
    name: str


class _Part(NamedTuple):
    """A plain tensor inside a block of bytes."""

    offset: int
    shape: torch.Size
    dtype: torch.dtype

    def view(self, block: Tensor) -> Tensor:
        """This tensor in a block [bytes]; nothing is copied."""
        nbytes = math.prod(self.shape) * self.dtype.itemsize
        return block[self.offset : self.offset + nbytes].view(self.dtype).view(self.shape)


class TensorGroup:
    """The tensors of a module in CPU memory, and what they are on the device.

    Args:
        module: its tensors, except those of the `excluded` modules inside it, are the group.
        dtype: of the floating-point tensors on the device; None keeps theirs.
    Attributes:
        own: the tensors in CPU memory.
        nbytes: size of the group as one block of bytes.
        pinned: the block in pinned memory, where it was made (`pin`).
    Raises: ValueError if a tensor is not in CPU memory, or of a class that cannot be copied as bytes.
    """

    def __init__(self, module: nn.Module, excluded: set[nn.Module], dtype: torch.dtype | None) -> None:
        self.dtype = dtype
        self.slots = list(_slots(module, excluded))
        self.own: list[Tensor] = [slot.holder[slot.name] for slot in self.slots]
        for tensor in self.own:
            _check(tensor)
        self.parts, self.nbytes = self._arranged()
        self.pinned: Tensor | None = None

    def assign(self, tensors: list[Tensor]) -> None:
        """Give the module these tensors, of the shapes `[...]` that its own have."""
        for (holder, name), tensor in zip(self.slots, tensors, strict=True):
            holder[name] = tensor

    def copies_on(self, device: torch.device) -> list[Tensor]:
        """The tensors on a device, of the shapes `[...]` that they have in the module, each in memory of its own."""
        return [_as_parameter(tensor, tensor.detach().to(device, self._device_dtype(tensor))) for tensor in self.own]

    def copy_to(self, block: Tensor) -> None:
        """Copy all tensors into a block [bytes] on any device, without waiting where that is possible."""
        if self.pinned is not None:
            block[: self.nbytes].copy_(self.pinned, non_blocking=True)
            return
        for part, (tensor, _) in zip(self.parts, self._plain_tensors(), strict=True):
            part.view(block).copy_(tensor.detach(), non_blocking=copies_aside(block.device))

    def tensors_in(self, block: Tensor) -> list[Tensor]:
        """The module's tensors as views of a block [bytes]; nothing is copied."""
        views = (part.view(block) for part in self.parts)
        found = []
        for tensor in self.own:
            if isinstance(tensor, PackedWeight):
                stored = {name: next(views) for name in tensor.stored}
                found.append(_as_parameter(tensor, PackedWeight(tensor.codec, stored, self._device_dtype(tensor))))
            else:
                found.append(_as_parameter(tensor, next(views)))
        return found

    def pin(self) -> None:
        """Move the tensors to pinned memory. Raises: RuntimeError if there is not enough of it."""
        pinned = torch.empty(self.nbytes, dtype=torch.uint8, pin_memory=True)
        self.copy_to(pinned)
        self.own, self.pinned = self.tensors_in(pinned), pinned
        self.assign(self.own)

    def _device_dtype(self, tensor: Tensor) -> torch.dtype:
        return self.dtype if self.dtype is not None and tensor.is_floating_point() else tensor.dtype

    def _plain_tensors(self) -> Iterator[tuple[Tensor, torch.dtype]]:
        """The stored parts of packed weights and the other tensors themselves, each with its dtype on the device."""
        for tensor in self.own:
            if isinstance(tensor, PackedWeight):
                yield from ((part, part.dtype) for part in tensor.stored.values())
            else:
                yield tensor, self._device_dtype(tensor)

    def _arranged(self) -> tuple[list[_Part], int]:
        """Each plain tensor behind the one before it, aligned; and the bytes of all."""
        parts, end = [], 0
        for tensor, dtype in self._plain_tensors():
            start = -(-end // _ALIGNMENT) * _ALIGNMENT
            parts.append(_Part(start, tensor.shape, dtype))
            end = start + math.prod(tensor.shape) * dtype.itemsize
        return parts, end


def pin_groups(groups: list[TensorGroup]) -> None:
    """Move groups to pinned memory, one by one; those for which it is not enough stay, and are copied more slowly."""
    for number, group in enumerate(groups):
        try:
            with torch.inference_mode(False):
                group.pin()
        except RuntimeError as error:
            logger.warning(
                "%d of %d blocks are in pinned memory and no more fit (%s); the others are streamed more slowly",
                number,
                len(groups),
                str(error).partition("\n")[0],
            )
            return


class BlockBuffers:
    """Two buffers on the device through which the blocks of a model pass.

    A block is prefetched, taken, computed with and released. On CUDA and ROCm, copies run on a stream of their own:
    they wait until the block that was in the buffer is computed, and the computation waits until its block has arrived.
    """

    @torch.inference_mode(False)
    def __init__(self, blocks: list[TensorGroup], device: torch.device) -> None:
        self.blocks = blocks
        size = max((block.nbytes for block in blocks), default=0)
        self.buffers = [torch.empty(size, dtype=torch.uint8, device=device) for _ in range(2)]
        self._content: list[int | None] = [None, None]  # the block in each buffer
        self._last_used = 1
        self._views: dict[tuple[int, int], list[Tensor]] = {}  # by buffer and block
        self._stream = _CopyStream(device) if copies_aside(device) else None

    def prefetch(self, index: int) -> None:
        """Begin to copy a block into the buffer that is not computed with, unless it is there already."""
        if index in self._content:
            return
        buffer = 1 - self._last_used
        self._content[buffer] = index
        with self._stream.filling(buffer) if self._stream else nullcontext():
            self.blocks[index].copy_to(self.buffers[buffer])

    def take(self, index: int) -> list[Tensor]:
        """The tensors of a block on the device, of the shapes `[...]` that they have in the module."""
        self.prefetch(index)
        buffer = self._last_used = self._content.index(index)
        if self._stream:
            self._stream.wait_until_filled(buffer)
        if (buffer, index) not in self._views:
            with torch.inference_mode(False):
                self._views[buffer, index] = self.blocks[index].tensors_in(self.buffers[buffer])
        return self._views[buffer, index]

    def release(self, index: int) -> None:
        """The block's computation is queued: once it is done, its buffer may be overwritten."""
        if self._stream:
            self._stream.mark_free(self._content.index(index))

    def close(self) -> None:
        """Make whoever gets the buffers' memory next wait for copies that are still running."""
        if self._stream:
            self._stream.join()


class _CopyStream:
    """The CUDA stream that fills `BlockBuffers`, with an event for each buffer that is filled or free."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._copying = torch.cuda.Stream(device)
        self._copying.wait_stream(torch.cuda.current_stream(device))  # earlier work may still use the buffers' memory
        self._filled = [torch.cuda.Event() for _ in range(2)]
        self._free = [torch.cuda.Event() for _ in range(2)]

    @contextmanager
    def filling(self, buffer: int) -> Iterator[None]:
        """Inside, copies go to the copying stream, after the computation that still uses the buffer."""
        self._copying.wait_event(self._free[buffer])  # an event that was never recorded does not block
        with torch.cuda.stream(self._copying):
            yield
            self._filled[buffer].record(self._copying)

    def wait_until_filled(self, buffer: int) -> None:
        torch.cuda.current_stream(self._device).wait_event(self._filled[buffer])

    def mark_free(self, buffer: int) -> None:
        self._free[buffer].record(torch.cuda.current_stream(self._device))

    def join(self) -> None:
        torch.cuda.current_stream(self._device).wait_stream(self._copying)


def _slots(module: nn.Module, excluded: set[nn.Module]) -> Iterator[_Slot]:
    for part in module.modules():
        if part in excluded:
            continue
        for holder in (part._parameters, part._buffers):
            yield from (_Slot(holder, name) for name, tensor in holder.items() if tensor is not None)


def _as_parameter(tensor: Tensor, other: Tensor) -> Tensor:
    """`other`, as a parameter if `tensor` is one."""
    return nn.Parameter(other, requires_grad=False) if isinstance(tensor, nn.Parameter) else other


def _check(tensor: Tensor) -> None:
    if type(tensor) not in (Tensor, nn.Parameter, PackedWeight):
        raise ValueError(
            f"weights of the kind {type(tensor).__name__} cannot be streamed; take int8, or do without low memory"
        )
    if tensor.device.type != "cpu":
        raise ValueError(f"weights on {tensor.device}; for low memory the model is loaded on the CPU")


def same_tensors(groups: Iterable[TensorGroup], others: Iterable[TensorGroup]) -> bool:
    """Whether two lists of groups hold the very same tensors."""
    return _identities(groups) == _identities(others)


def _identities(groups: Iterable[TensorGroup]) -> list[int]:
    found: list[int] = []
    for group in groups:
        found += map(id, group.own)
    return found
