"""Training a LoRA: the transformer stays as it is, and a pair of small matrices beside each chosen layer learns."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..kernels.layers import Linear
from ..models.transformer.model import CogVideoXTransformer3D


@dataclass(frozen=True)
class LoRAShape:
    """Which layers inside the blocks get a pair, by the ends of their names, and the rank of the pairs.

    The default layers are those that diffusers' training scripts take.
    """

    rank: int
    layers: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")


class Pair(nn.Module):
    """up (down x) beside a layer, nothing at first: an addition of `layers.Linear`."""

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.empty(rank, layer.in_features))
        self.up = nn.Parameter(torch.zeros(layer.out_features, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output + F.linear(F.linear(inputs[0], self.down), self.up)


def add_pairs(transformer: CogVideoXTransformer3D, shape: LoRAShape) -> dict[str, Pair]:
    """Freeze a transformer and put pairs on it, which are parameters of their layers. Returns: them by layer.

    Raises: ValueError if the rank is no rank, or no layer has such a name.
    """
    if shape.rank < 1:
        raise ValueError(f"lora has rank {shape.rank}; it takes 1 or more, 4 to 128 is usual")
    transformer.requires_grad_(False)
    pairs = {
        name: Pair(layer, shape.rank)
        for name, layer in transformer.transformer_blocks.named_modules(prefix="transformer_blocks")
        if isinstance(layer, Linear) and name.endswith(tuple(f".{end}" for end in shape.layers))
    }
    if not pairs:
        raise ValueError(f"lora names the layers {', '.join(shape.layers)}; no block has one of them")
    for name, pair in pairs.items():
        layer = transformer.get_submodule(name)
        assert isinstance(layer, Linear)
        layer.add_module("lora", pair)
        layer.deltas += (pair,)
    return pairs
