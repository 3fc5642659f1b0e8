"""Layers without initial values: the core's own in every other respect."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cogvideox_core.kernels import layers
from cogvideox_core.weights import empty_layers

ARGUMENTS = {
    "Linear": (4, 6),
    "Conv2d": (4, 6, 3),
    "Conv3d": (4, 6, 3),
    "LayerNorm": (4,),
    "GroupNorm": (2, 4),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_nothing_is_drawn_and_the_shapes_are_the_same(name: str) -> None:
    before = torch.random.get_rng_state()
    empty = getattr(empty_layers, name)(*ARGUMENTS[name])
    assert torch.equal(torch.random.get_rng_state(), before), "a random number was drawn"
    ordinary = getattr(layers, name)(*ARGUMENTS[name])
    assert isinstance(empty, getattr(layers, name))
    assert {key: tensor.shape for key, tensor in empty.state_dict().items()} == {
        key: tensor.shape for key, tensor in ordinary.state_dict().items()
    }


def test_with_weights_a_layer_computes_as_ever() -> None:
    x = torch.randn(3, 4)
    ordinary, empty = layers.Linear(4, 6), empty_layers.Linear(4, 6, device="meta")
    empty.load_state_dict(ordinary.state_dict(), assign=True)
    assert torch.equal(empty(x), nn.functional.linear(x, ordinary.weight, ordinary.bias))
