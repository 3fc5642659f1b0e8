"""Packed weights: they stay quantized until they are used, and compute what their decoded numbers do."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import Linear

from cogvideox_core.weights.packed_weight import PackedWeight, concatenated_rows, quantize, writable_codecs


def test_what_cannot_be_encoded_is_told() -> None:
    with pytest.raises(ValueError, match="Q4_K is read and not written; take one of Q4_0, Q8_0, int8, fp8"):
        quantize(torch.ones(2, 256), "Q4_K")
    with pytest.raises(ValueError, match="a matrix of 40 columns; Q8_0 takes multiples of 32"):
        quantize(torch.ones(2, 40), "Q8_0")


@pytest.fixture(params=[*writable_codecs()])
def small(request: pytest.FixtureRequest) -> PackedWeight:
    return quantize(torch.randn(8, 64, generator=torch.Generator().manual_seed(3)), request.param, torch.bfloat16)


def layer_of(weight: Tensor) -> nn.Linear:
    layer = Linear(64, 8, device="meta")
    layer.load_state_dict({"weight": weight, "bias": torch.arange(8.0).to(weight.dtype)}, assign=True)
    return layer.requires_grad_(False)


def test_a_layer_computes_with_the_decoded_numbers(small: PackedWeight) -> None:
    x = torch.randn(3, 64, dtype=torch.bfloat16)
    wanted = layer_of(small.dequantize())(x)
    layer = layer_of(small)
    assert isinstance(layer.weight, PackedWeight) and layer.weight.shape == (8, 64)
    assert torch.equal(layer(x), wanted) and type(layer(x)) is Tensor
    with torch.inference_mode():
        assert torch.equal(layer(x), wanted)


def test_moving_casting_and_copying_keep_it_small(small: PackedWeight) -> None:
    assert small.nbytes <= 8 * 64 * 1.1 + 40 and small.dtype == torch.bfloat16
    layer = layer_of(small)
    for changed in (layer.to(torch.float32), copy.deepcopy(layer), copy.deepcopy(layer).to(torch.float16)):
        weight = changed.weight
        assert isinstance(weight, PackedWeight) and weight.nbytes == small.nbytes
        assert torch.equal(weight.dequantize(torch.float32), small.dequantize(torch.float32))
    assert layer(torch.ones(1, 64)).dtype == torch.float32
    assert small.to(torch.float16) is not small and small.to(torch.float16).dtype == torch.float16


def test_moving_and_casting_keep_it_small_in_inference_mode_too(small: PackedWeight) -> None:
    with torch.inference_mode():
        for moved in (small.to(torch.float16), small.to("cpu", torch.float16), small.half()):
            assert isinstance(moved, PackedWeight) and moved.dtype == torch.float16
            assert torch.equal(moved.dequantize(torch.float32), small.dequantize(torch.float32))
        assert isinstance(small.to(device="cpu", dtype=torch.float16), PackedWeight)
        assert isinstance(small[:3], PackedWeight)


def test_rows_are_cut_and_joined_without_decoding(small: PackedWeight) -> None:
    numbers = small.dequantize()
    first, second = small[:3], small[3:]
    assert isinstance(first, PackedWeight) and first.shape == (3, 64)
    assert torch.equal(first.dequantize(), numbers[:3]) and torch.equal(second.dequantize(), numbers[3:])
    swapped = concatenated_rows([second, first])
    assert torch.equal(swapped.to(torch.bfloat16) + 0, torch.cat([numbers[3:], numbers[:3]]))
    assert type(small[:, 2:5]) is Tensor and torch.equal(small[:, 2:5], numbers[:, 2:5])


def test_an_embedding_decodes_the_rows_it_looks_up(small: PackedWeight) -> None:
    indices = torch.tensor([[3, 3], [7, 0]])
    found = nn.functional.embedding(indices, small)
    assert torch.equal(found, small.dequantize()[indices])


def test_it_cannot_be_written_to(small: PackedWeight) -> None:
    before = small.dequantize()
    with pytest.raises(NotImplementedError, match="which is only read; dequantize it first"):
        small.add_(1)
    with pytest.raises(NotImplementedError, match="which is only read"):
        small.copy_(torch.zeros(8, 64))
    target = torch.zeros(8, 64)
    target.copy_(small)
    assert torch.equal(target.bfloat16(), before) and torch.equal(small.dequantize(), before)


def test_it_says_what_it_is(small: PackedWeight) -> None:
    assert repr(small) == f"PackedWeight({small.codec}, [8, 64], torch.bfloat16, cpu)"
    assert math.prod(small.shape) == small.numel() == 512
