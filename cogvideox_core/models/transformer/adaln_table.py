"""The adaptive norms' part of a schedule, computed once: it depends on the timestep and on nothing else.

Their matrices are 14 % of a 5B model. Inside `tabulated` they are not used, so they may lie where there is room.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .model import CogVideoXTransformer3D, ExpertLayerNorm, FinalLayerNorm


class _Rows(nn.Module):
    """A layer's results, by the place of their timestep in the schedule.

    A power of two of rows, the last ones empty: a compiled block is made anew for another number of them.
    """

    rows: Tensor

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        spare = (1 << (len(rows) - 1).bit_length()) - len(rows)
        self.register_buffer("rows", F.pad(rows, (0, 0, 0, spare)), persistent=False)

    def forward(self, places: Tensor) -> Tensor:
        return self.rows[places]


@contextmanager
def tabulated(transformer: CogVideoXTransformer3D, timesteps: Sequence[int], latents: Tensor) -> Iterator[None]:
    """Inside, the transformer takes these timesteps only, and looks up what its adaptive norms need.

    A layer works where its weights are; its results go to where `latents` are, in their dtype.
    """
    norms = [module for module in transformer.modules() if isinstance(module, ExpertLayerNorm | FinalLayerNorm)]
    layers = [norm.linear for norm in norms]
    ascending = torch.tensor(sorted(set(timesteps)), device=latents.device)
    temb = transformer.embed_time(ascending, None, latents)
    try:
        for norm, layer in zip(norms, layers, strict=True):
            rows = layer(temb.to(layer.weight.device))
            norm.linear = _Rows(rows.to(latents.device))
        transformer.tabulated_timesteps = ascending
        transformer.kept_rotary = {}
        yield
    finally:
        transformer.tabulated_timesteps = None
        transformer.kept_rotary = None
        for norm, layer in zip(norms, layers, strict=True):
            norm.linear = layer
