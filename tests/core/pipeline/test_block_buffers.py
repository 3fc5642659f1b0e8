"""Tensors as one block of bytes, and the two buffers blocks pass through; on the CPU as the device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from cogvideox_core.kernels.layers import Linear
from cogvideox_core.pipeline.block_buffers import BlockBuffers, TensorGroup, same_tensors
from cogvideox_core.weights.packed_weight import PackedWeight, quantize

CPU = torch.device("cpu")


def layer(inputs: int, outputs: int) -> Linear:
    return Linear(inputs, outputs).requires_grad_(False)


def test_a_group_comes_out_of_a_block_of_bytes_as_it_went_in() -> None:
    module = nn.Sequential(layer(3, 5), layer(5, 2))
    group = TensorGroup(module, set(), None)
    block = torch.empty(group.nbytes, dtype=torch.uint8)
    group.copy_to(block)
    found = group.tensors_in(block)
    assert all(map(torch.equal, found, group.own)) and all(isinstance(one, nn.Parameter) for one in found)
    assert found[0].untyped_storage().data_ptr() == block.untyped_storage().data_ptr(), "a view, not a copy"


def test_floating_point_tensors_are_cast_and_the_others_not() -> None:
    module = layer(4, 4)
    module.register_buffer("steps", torch.arange(3))
    group = TensorGroup(module, set(), torch.bfloat16)
    assert [tensor.dtype for tensor in group.copies_on(CPU)] == [torch.bfloat16, torch.bfloat16, torch.int64]


def test_packed_weights_stay_packed() -> None:
    module: Any = layer(64, 8)
    packed: Any = nn.Parameter(quantize(module.weight, "int8"), requires_grad=False)
    module.weight = packed
    group = TensorGroup(module, set(), torch.bfloat16)
    block = torch.empty(group.nbytes, dtype=torch.uint8)
    group.copy_to(block)
    weight = group.tensors_in(block)[0]
    assert isinstance(weight, PackedWeight) and weight.dtype == torch.bfloat16
    assert torch.equal(weight.stored["data"], packed.stored["data"])
    assert group.nbytes < 64 * 8 * 2, "less than in 16 bits"


def test_excluded_modules_are_no_part_of_a_group() -> None:
    module = nn.Sequential(layer(3, 5), layer(5, 2))
    assert len(TensorGroup(module, {module[1]}, None).own) == 2
    assert same_tensors([TensorGroup(module[0], set(), None)], [TensorGroup(module, {module[1]}, None)])


def test_a_block_is_overwritten_only_by_the_one_after_the_next() -> None:
    blocks = [TensorGroup(layer(2, 2), set(), None) for _ in range(3)]
    buffers = BlockBuffers(blocks, CPU)
    first = buffers.take(0)
    buffers.prefetch(1)
    assert torch.equal(first[0], blocks[0].own[0])
    buffers.release(0)
    second = buffers.take(1)
    buffers.prefetch(2)
    assert torch.equal(second[0], blocks[1].own[0])
    assert torch.equal(first[0], blocks[2].own[0]), "its buffer holds the third block now"


def test_tensors_that_are_not_in_cpu_memory_are_refused() -> None:
    with pytest.raises(ValueError, match="weights on meta; for low memory the model is loaded on the CPU"):
        TensorGroup(Linear(2, 2, device="meta"), set(), None)
