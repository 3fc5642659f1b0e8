"""Offloading: a model rests in CPU memory and computes on a device that need not hold all of it.

An `OffloadedModule` stays in CPU memory, mapped from its file where it was opened that way. While it works, its tensors
outside of the blocks are on the device, and the blocks pass through two buffers there (block_buffers.py). The same runs
with the CPU as the device, with the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from ..kernels.devices import copies_aside, give_back_memory
from ..models.text_encoder import TextEncoder
from ..models.transformer.model import CogVideoXTransformer3D, ExpertLayerNorm, FinalLayerNorm
from .block_buffers import BlockBuffers, TensorGroup, pin_groups, same_tensors

Context = Callable[[], AbstractContextManager[None]]
"""Makes the context inside which a component can work."""

CPU = torch.device("cpu")


class Offload(NamedTuple):
    """Where offloaded components compute, and in which dtype; `text`: the same of the text encoder, if it differs."""

    device: torch.device
    dtype: torch.dtype
    text: Offload | None = None


class ComponentContexts(NamedTuple):
    """For each component of a pipeline, the context inside which it can work; resident ones need none."""

    text: Context = nullcontext
    transformer: Context = nullcontext
    vae: Context = nullcontext


def offload_components(
    transformer: CogVideoXTransformer3D, vae: nn.Module, text_encoder: Any, offload: Offload
) -> ComponentContexts:
    """The contexts of components in CPU memory, which go to the device one after the other.

    The matrices of the adaptive norms never move: `adaln_table.tabulated` uses them once per schedule. A text encoder
    that is not this package's is left alone.

    Raises: ValueError if a component is not in CPU memory, or has weights of a class that cannot be streamed.
    """
    device, dtype, _ = offload
    norms = [module for module in transformer.modules() if isinstance(module, ExpertLayerNorm | FinalLayerNorm)]
    text: Context = nullcontext
    if isinstance(text_encoder, TextEncoder):
        # Not pinned: it is used once per run, and pinning would take as much memory as its weights. For float16 some of
        # its weights are wider (see `load_text_encoder`), so each keeps its own dtype.
        place = offload.text or offload
        own = None if place.dtype == torch.float16 else place.dtype
        text = OffloadedModule(text_encoder.model, place.device, own, blocks=text_encoder.model.encoder.block).on_device
    blocks, resting = transformer.transformer_blocks, [norm.linear for norm in norms]
    return ComponentContexts(
        text,
        OffloadedModule(transformer, device, dtype, blocks=blocks, resting=resting, pin=True).on_device,
        OffloadedModule(vae, device, dtype).on_device,
    )


class OffloadedModule:
    """A module in CPU memory that computes on a device.

    Args:
        dtype: what its weights are cast to on the way; None keeps the dtype of each.
        blocks: parts of the module that run one after the other, in this order; they are streamed.
        resting: layers that never move; they are cast while they are called.
        pin: keep the blocks in pinned memory, from which a GPU copies at full speed while it computes (CUDA only).
    Raises: ValueError if the module is not in CPU memory, or has weights of a class that cannot be streamed.
    """

    def __init__(
        self,
        module: nn.Module,
        device: torch.device,
        dtype: torch.dtype | None = None,
        *,
        blocks: Iterable[nn.Module] = (),
        resting: Iterable[nn.Module] = (),
        pin: bool = False,
    ) -> None:
        self.device = device
        self.dtype = dtype
        self._module, self._blocks, self._resting = module, list(blocks), list(resting)
        self._pin = pin and copies_aside(device)
        self._block_groups: list[TensorGroup] = []
        self._group_tensors()

    def _group_tensors(self) -> TensorGroup:
        """Group the tensors that the module has now. Returns: the group of those outside of the blocks."""
        excluded = _submodules(self._resting)
        found = [TensorGroup(block, excluded, self.dtype) for block in self._blocks]
        if not same_tensors(found, self._block_groups):
            self._block_groups = found
            if self._pin:
                pin_groups(found)
        return TensorGroup(self._module, excluded | _submodules(self._blocks), self.dtype)

    @contextmanager
    def on_device(self) -> Iterator[None]:
        """Inside, the module computes on the device; afterwards, and after an error, it is back in CPU memory."""
        outside = self._group_tensors()
        resting = [TensorGroup(layer, set(), self.dtype) for layer in self._resting]
        buffers = BlockBuffers(self._block_groups, self.device)
        hooks: list[RemovableHandle] = []
        try:
            outside.assign(outside.copies_on(self.device))
            for index, block in enumerate(self._blocks):
                hooks += _around_call(block, partial(_fill, buffers, index), partial(_empty, buffers, index))
            for layer, group in zip(self._resting, resting, strict=True):
                hooks += _around_call(layer, partial(_cast, group), partial(_restore, group))
            yield
        finally:
            for hook in hooks:
                hook.remove()
            for group in (outside, *resting, *self._block_groups):
                group.assign(group.own)
            buffers.close()
            give_back_memory(self.device)


def _submodules(modules: Iterable[nn.Module]) -> set[nn.Module]:
    return set(chain.from_iterable(module.modules() for module in modules))


def _around_call(module: nn.Module, before: Callable[..., None], after: Callable[..., None]) -> list[RemovableHandle]:
    """Call two functions around each call of the module, the second one after an error too."""
    return [module.register_forward_pre_hook(before), module.register_forward_hook(after, always_call=True)]


def _fill(buffers: BlockBuffers, index: int, block: nn.Module, inputs: Any) -> None:
    """Give a block its tensors on the device, and begin to copy the next one's."""
    buffers.blocks[index].assign(buffers.take(index))
    buffers.prefetch((index + 1) % len(buffers.blocks))


def _empty(buffers: BlockBuffers, index: int, block: nn.Module, inputs: Any, output: Any) -> None:
    """Give a block its tensors in CPU memory back."""
    buffers.blocks[index].assign(buffers.blocks[index].own)
    buffers.release(index)


def _cast(group: TensorGroup, layer: nn.Module, inputs: Any) -> None:
    group.assign(group.copies_on(CPU))


def _restore(group: TensorGroup, layer: nn.Module, inputs: Any, output: Any) -> None:
    group.assign(group.own)
