"""The modulation of the adaptive norms for all timesteps of a run, computed once: it depends on nothing else.

The matrices that make it are 14 % of a 5B model. Inside `tabulated` they are not used, so they need not be on the GPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .model import CogVideoXTransformer3D, ExpertLayerNorm, FinalLayerNorm


class _Rows(nn.Module):
    """A layer's results [timesteps, C], one row for each timestep of the schedule in ascending order.

    The number of rows is a power of two, the last ones empty: a compiled block is compiled again for another number.
    """

    rows: Tensor

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        spare = (1 << (len(rows) - 1).bit_length()) - len(rows)
        self.register_buffer("rows", F.pad(rows, (0, 0, 0, spare)), persistent=False)

    def forward(self, indices: Tensor) -> Tensor:
        """Rows [B, C] of timesteps, given by their index [B] in the schedule."""
        return self.rows[indices]


@contextmanager
def tabulated(transformer: CogVideoXTransformer3D, timesteps: Sequence[int], latents: Tensor) -> Iterator[None]:
    """Inside, the transformer takes these timesteps only, and looks up the modulation of its adaptive norms.

    A layer computes where its weights are; the results go to the device and dtype of latents [B, C, T, H, W]. The
    rotary table of a run is made once, too, and is gone afterwards.
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
