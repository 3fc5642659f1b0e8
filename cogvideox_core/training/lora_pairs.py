"""The pairs of matrices that a LoRA trains, added to chosen layers of a transformer whose own weights are frozen."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..kernels.layers import Linear
from ..models.transformer.model import CogVideoXTransformer3D
from .recipe import LoRAShape


class Pair(nn.Module):
    """The LoRA delta of one layer, up (down x): one of the `deltas` of `layers.Linear`. Zero at first."""

    changes_weights = False

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.empty(rank, layer.in_features))
        self.up = nn.Parameter(torch.zeros(layer.out_features, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))  # as diffusers and PEFT start theirs

    def forward(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """The output [..., N] of `layer` plus the delta for its input [..., K]."""
        return output + F.linear(F.linear(inputs[0], self.down), self.up)

    def changed(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The weight [N, K] with the pair's product in it, and the bias [N] as it is."""
        return weight + self.up @ self.down, bias


def add_pairs(transformer: CogVideoXTransformer3D, shape: LoRAShape) -> dict[str, Pair]:
    """Freeze a transformer and add a pair to each chosen layer. Returns: the pairs by the names of their layers.

    Raises: ValueError if the rank is no rank, or no layer has such a name.
    """
    if shape.rank < 1:
        raise ValueError(f"lora has rank {shape.rank}; it takes 1 or more, 4 to 128 is usual")
    transformer.requires_grad_(False)
    ends = tuple(f".{end}" for end in shape.layers)
    blocks = transformer.transformer_blocks
    chosen = {
        name: layer
        for name, layer in blocks.named_modules(prefix="transformer_blocks")
        if isinstance(layer, Linear) and name.endswith(ends)
    }
    if not chosen:
        raise ValueError(f"lora names the layers {', '.join(shape.layers)}; no block has one of them")
    pairs = {name: Pair(layer, shape.rank) for name, layer in chosen.items()}
    for name, layer in chosen.items():
        layer.add_module("lora", pairs[name])  # so that the pair is saved and moved with its layer
        layer.deltas += (pairs[name],)
    return pairs
