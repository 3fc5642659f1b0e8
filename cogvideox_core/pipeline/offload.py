"""Running a model on a device that does not hold it: each part comes for the time it works, and its blocks in turn.

A `Visitor` lives in CPU memory, mapped from its file where it was opened so. While it is present, what lies around its
blocks is on the device, and the blocks pass through two buffers there: one is computed with while the next is copied,
on a stream of its own where there is one. Small numbers (`PackedWeight`) travel small. On the CPU the same happens
with the CPU as the device, to the same numbers.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..models.text_encoder import TextEncoder
from ..models.transformer.model import CogVideoXTransformer3D, ExpertLayerNorm, FinalLayerNorm
from ..models.vae.autoencoder import AutoencoderCausal3D
from ..weights.packed_weight import PackedWeight

logger = logging.getLogger("cogvideox")

Presence = Callable[[], AbstractContextManager[None]]

CPU = torch.device("cpu")
_ALIGNMENT = 256  # bytes: what CUDA's own allocations keep to


class Workplace(NamedTuple):
    """Where modules that are kept elsewhere work, and in which numbers."""

    device: torch.device
    dtype: torch.dtype


class Presences(NamedTuple):
    """For each part of a pipeline, the context in which it can work."""

    text: Presence = nullcontext
    transformer: Presence = nullcontext
    vae: Presence = nullcontext


def visiting(
    transformer: CogVideoXTransformer3D, vae: AutoencoderCausal3D, text_encoder: Any, workplace: Workplace
) -> Presences:
    """The presences of a pipeline whose parts are in CPU memory and come to a workplace, one after the other.

    The adaptive norms' matrices stay where they are: `modulation.tabulated` needs them once a schedule. A text encoder
    that is not this package's is left to itself.

    Raises: ValueError if a part is not in CPU memory, or has weights of a kind that cannot be streamed.
    """
    device, dtype = workplace
    norms = [module for module in transformer.modules() if isinstance(module, ExpertLayerNorm | FinalLayerNorm)]
    staying = [norm.linear for norm in norms]
    text: Presence = nullcontext
    if isinstance(text_encoder, TextEncoder):
        # Not pinned: it is used once a run, and would take as much memory as it has weights. In float16 some of its
        # weights are wider, see `load_text_encoder`.
        own = None if dtype == torch.float16 else dtype
        text = Visitor(text_encoder.model, device, own, blocks=text_encoder.model.encoder.block).present
    return Presences(
        text,
        Visitor(transformer, device, dtype, blocks=transformer.transformer_blocks, staying=staying, pin=True).present,
        Visitor(vae, device, dtype).present,
    )


class Visitor:
    """A module in CPU memory that works on a device.

    Args:
        dtype: what its weights are cast to on the way; None leaves each as it is.
        blocks: parts of the module that run one after the other, in this order; they are streamed.
        staying: layers that are never moved, and cast for as long as they are called.
        pin: keep the blocks in pinned memory, from which a GPU reads at full speed beside its work (CUDA only).
    Raises: ValueError if the module is not in CPU memory, or has weights of a kind that cannot be streamed.
    """

    def __init__(
        self,
        module: nn.Module,
        device: torch.device,
        dtype: torch.dtype | None = None,
        *,
        blocks: Iterable[nn.Module] = (),
        staying: Iterable[nn.Module] = (),
        pin: bool = False,
    ) -> None:
        self.device = device
        self.dtype = dtype
        self._module, self._blocks, self._pin = module, list(blocks), pin and device.type == "cuda"
        self._staying = list(staying)
        self._bundles: list[_Bundle] = []
        self._gather()

    def _gather(self) -> _Bundle:
        """See which tensors the module has now. Returns: those around the blocks."""
        absent = _submodules(self._staying)
        found = [_Bundle(block, absent, self.dtype) for block in self._blocks]
        if _identities(found) != _identities(self._bundles):
            self._bundles = found
            if self._pin:
                _pin(found)
        return _Bundle(self._module, absent | _submodules(self._blocks), self.dtype)

    @contextmanager
    def present(self) -> Iterator[None]:
        """Inside, the module computes on the device; afterwards, and after an error, it is back as it was."""
        around, staying = self._gather(), [_Bundle(layer, set(), self.dtype) for layer in self._staying]
        ring = _Ring(self._bundles, self.device)
        hooks: list[RemovableHandle] = []
        try:
            around.put(around.moved(self.device))
            for index, block in enumerate(self._blocks):
                hooks += _around_call(block, partial(_arrive, ring, index), partial(_leave, ring, index))
            for layer, bundle in zip(self._staying, staying, strict=True):
                hooks += _around_call(layer, partial(_cast, bundle), partial(_restore, bundle))
            yield
        finally:
            for hook in hooks:
                hook.remove()
            for bundle in (around, *staying, *self._bundles):
                bundle.put(bundle.own)
            ring.close()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()


def _submodules(modules: Iterable[nn.Module]) -> set[nn.Module]:
    return {part for module in modules for part in module.modules()}


def _around_call(module: nn.Module, before: Callable[..., None], after: Callable[..., None]) -> list[RemovableHandle]:
    """Have two functions called around each of the module's calls, the second after an error too."""
    return [module.register_forward_pre_hook(before), module.register_forward_hook(after, always_call=True)]


def _arrive(ring: _Ring, index: int, block: nn.Module, inputs: Any) -> None:
    ring.blocks[index].put(ring.take(index))
    ring.fetch((index + 1) % len(ring.blocks))


def _leave(ring: _Ring, index: int, block: nn.Module, inputs: Any, output: Any) -> None:
    ring.blocks[index].put(ring.blocks[index].own)
    ring.release(index)


def _cast(bundle: _Bundle, layer: nn.Module, inputs: Any) -> None:
    bundle.put(bundle.moved(CPU))


def _restore(bundle: _Bundle, layer: nn.Module, inputs: Any, output: Any) -> None:
    bundle.put(bundle.own)


class _Place(NamedTuple):
    """Where a module holds a tensor: its dictionary of parameters or of buffers, and the name there."""

    holder: dict[str, Any]
    name: str


class _Part(NamedTuple):
    """A plain tensor in a run of bytes."""

    offset: int
    shape: torch.Size
    dtype: torch.dtype


class _Bundle:
    """The tensors of a module, but for those of `absent` modules within it; elsewhere they are in `dtype`.

    Attributes:
        own: the tensors themselves, in CPU memory.
        layout: how their parts lie in one run of `nbytes` bytes.
        pack: the run itself where it is pinned.
    """

    def __init__(self, module: nn.Module, absent: set[nn.Module], dtype: torch.dtype | None) -> None:
        self.dtype = dtype
        self.places = [
            _Place(holder, name)
            for part in module.modules()
            if part not in absent
            for holder in (part._parameters, part._buffers)
            for name, tensor in holder.items()
            if tensor is not None
        ]
        self.own: list[Tensor] = [place.holder[place.name] for place in self.places]
        for tensor in self.own:
            _check(tensor)
        self.layout, self.nbytes = _layout(
            (part.shape, part.dtype if isinstance(tensor, PackedWeight) else self._cast(part))
            for tensor in self.own
            for part in _parts(tensor)
        )
        self.pack: Tensor | None = None

    def put(self, tensors: list[Tensor]) -> None:
        """Give the module these tensors in place of those it has."""
        for (holder, name), tensor in zip(self.places, tensors, strict=True):
            holder[name] = tensor

    def moved(self, device: torch.device) -> list[Tensor]:
        """The tensors on a device, each by itself."""
        return [_like(tensor, tensor.detach().to(device, self._cast(tensor))) for tensor in self.own]

    def _cast(self, tensor: Tensor) -> torch.dtype:
        """The dtype a tensor has elsewhere."""
        return self.dtype if self.dtype is not None and tensor.is_floating_point() else tensor.dtype

    def copy_to(self, buffer: Tensor) -> None:
        """Write everything into a run of bytes, on whichever device; does not wait where it need not."""
        if self.pack is not None:
            buffer[: self.nbytes].copy_(self.pack, non_blocking=True)
            return
        parts = [part for tensor in self.own for part in _parts(tensor)]
        for target, part in zip(self._views(buffer), parts, strict=True):
            target.copy_(part.detach(), non_blocking=True)

    def tensors_in(self, buffer: Tensor) -> list[Tensor]:
        """The tensors as they lie in a run of bytes; nothing is copied."""
        views, made = iter(self._views(buffer)), []
        for tensor in self.own:
            parts: list[Tensor] = [next(views) for _ in _parts(tensor)]
            if isinstance(tensor, PackedWeight):
                stored = dict(zip(tensor.stored, parts, strict=True))
                found: Tensor = PackedWeight(tensor.codec, stored, self._cast(tensor))
            else:
                (found,) = parts
            made.append(_like(tensor, found))
        return made

    def _views(self, buffer: Tensor) -> Iterator[Tensor]:
        for offset, shape, dtype in self.layout:
            nbytes = math.prod(shape) * dtype.itemsize
            yield buffer[offset : offset + nbytes].view(dtype).view(shape)


def _like(tensor: Tensor, other: Tensor) -> Tensor:
    """`other` as a parameter where `tensor` is one."""
    return nn.Parameter(other, requires_grad=False) if isinstance(tensor, nn.Parameter) else other


def _parts(tensor: Tensor) -> list[Tensor]:
    """The plain tensors one is made of."""
    return list(tensor.stored.values()) if isinstance(tensor, PackedWeight) else [tensor]


def _layout(parts: Iterable[tuple[torch.Size, torch.dtype]]) -> tuple[tuple[_Part, ...], int]:
    """Places of parts one behind the other, and the bytes of all."""
    layout, end = [], 0
    for shape, dtype in parts:
        start = -(-end // _ALIGNMENT) * _ALIGNMENT
        layout.append(_Part(start, shape, dtype))
        end = start + math.prod(shape) * dtype.itemsize
    return tuple(layout), end


def _identities(bundles: list[_Bundle]) -> list[int]:
    return [id(tensor) for bundle in bundles for tensor in bundle.own]


def _check(tensor: Tensor) -> None:
    if type(tensor) not in (Tensor, nn.Parameter, PackedWeight):
        raise ValueError(
            f"weights of the kind {type(tensor).__name__} cannot be streamed; take int8, or do without low memory"
        )
    if tensor.device.type != "cpu":
        raise ValueError(f"weights on {tensor.device}; for low memory the model is loaded on the CPU")


@torch.inference_mode(False)
def _pin(blocks: list[_Bundle]) -> None:
    """Move blocks to pinned memory, one by one; where that runs out, the others stay and are copied more slowly."""
    for number, block in enumerate(blocks):
        try:
            pack = torch.empty(block.nbytes, dtype=torch.uint8, pin_memory=True)
        except RuntimeError as error:
            logger.warning(
                "%d of %d blocks are in pinned memory and no more fit (%s); the others are streamed more slowly",
                number,
                len(blocks),
                str(error).partition("\n")[0],
            )
            return
        block.copy_to(pack)
        block.own, block.pack = block.tensors_in(pack), pack
        block.put(block.own)


class _Ring:
    """Two buffers on the device that blocks pass through.

    A block is fetched, taken, computed with and released. On CUDA, copies run on a stream of their own: they wait until
    the block that lay in the buffer is computed, and the computation waits until its block is there.
    """

    @torch.inference_mode(False)
    def __init__(self, blocks: list[_Bundle], device: torch.device) -> None:
        self.blocks = blocks
        size = max((block.nbytes for block in blocks), default=0)
        self.buffers = [torch.empty(size, dtype=torch.uint8, device=device) for _ in range(2)]
        self._holds: list[int | None] = [None, None]  # the block in each buffer
        self._last = 1  # the buffer last computed with
        self._made: dict[tuple[int, int], list[Tensor]] = {}
        self._stream = _CopyStream(device) if device.type == "cuda" else None

    def fetch(self, index: int) -> None:
        """Begin to copy a block into the buffer that is not computed with, unless it is there."""
        if index in self._holds:
            return
        slot = 1 - self._last
        self._holds[slot] = index
        with self._stream.filling(slot) if self._stream else nullcontext():
            self.blocks[index].copy_to(self.buffers[slot])

    def take(self, index: int) -> list[Tensor]:
        """The tensors of a block on the device."""
        self.fetch(index)
        slot = self._last = self._holds.index(index)
        if self._stream:
            self._stream.await_filled(slot)
        if (slot, index) not in self._made:
            with torch.inference_mode(False):
                self._made[slot, index] = self.blocks[index].tensors_in(self.buffers[slot])
        return self._made[slot, index]

    def release(self, index: int) -> None:
        """Its computation is under way: once that is done, the buffer may be written to."""
        if self._stream:
            self._stream.mark_free(self._holds.index(index))

    def close(self) -> None:
        """Let whatever takes the buffers' memory next wait for copies that are under way."""
        if self._stream:
            self._stream.join()


class _CopyStream:
    """The side stream of a `_Ring`, with an event for each buffer that is filled and each that is free."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._side = torch.cuda.Stream(device)
        self._side.wait_stream(torch.cuda.current_stream(device))  # earlier work may still use the buffers' memory
        self._filled = [torch.cuda.Event() for _ in range(2)]
        self._free = [torch.cuda.Event() for _ in range(2)]

    @contextmanager
    def filling(self, slot: int) -> Iterator[None]:
        """Inside, copies go to the side stream, after the computation that still uses the buffer."""
        self._side.wait_event(self._free[slot])  # an event that was never recorded is passed at once
        with torch.cuda.stream(self._side):
            yield
            self._filled[slot].record(self._side)

    def await_filled(self, slot: int) -> None:
        torch.cuda.current_stream(self._device).wait_event(self._filled[slot])

    def mark_free(self, slot: int) -> None:
        self._free[slot].record(torch.cuda.current_stream(self._device))

    def join(self) -> None:
        torch.cuda.current_stream(self._device).wait_stream(self._side)
