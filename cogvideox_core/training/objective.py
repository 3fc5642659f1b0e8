"""What a stage trains, and the random numbers it draws."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


class Objective(nn.Module):
    """The modules that a stage trains, its batches and its loss; one subclass for each stage."""

    def batch(self, step: int, slots: range, batch_size: int) -> Any:
        """The clips of `slots`, which are indices in the global batch of `batch_size`, on the CPU or a device."""
        raise NotImplementedError

    def forward(self, batch: Any) -> dict[str, Tensor]:
        """Means over the batch, each a scalar: "loss", and more columns for the log."""
        raise NotImplementedError

    def export(self, folder: Path) -> None:
        """Write the modules with their current weights, in the official layout."""
        raise NotImplementedError

    def compile_blocks(self) -> None:
        """torch.compile the blocks that repeat, where that makes steps faster."""


def seeded_random(*key: int) -> random.Random:
    """A generator of its own for every key: (seed, step, slot) and the like.

    Nothing is drawn from a generator that lives longer than a step. So a training run that was interrupted draws what
    it would have drawn, and several processes draw what one would.
    """
    return random.Random(" ".join(map(str, key)))


def seeded_generator(*key: int) -> torch.Generator:
    """The same, for tensors."""
    return torch.Generator().manual_seed(seeded_random(*key).getrandbits(62))
