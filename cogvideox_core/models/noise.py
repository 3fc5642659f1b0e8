"""Drawing Gaussian noise in diffusers' order, so that a seed means the same video there and here."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Generator = torch.Generator | Sequence[torch.Generator] | None


def draw(shape: Sequence[int], generator: Generator, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Standard normal noise [*shape].

    A CPU generator draws on the CPU whatever the device, so a seed gives the same noise everywhere. A list of
    generators draws one batch item each.

    Raises: ValueError if the list's length is not the batch size.
    """
    if generator is None or isinstance(generator, torch.Generator):
        source = device if generator is None else generator.device
        return torch.randn(tuple(shape), generator=generator, device=source, dtype=dtype).to(device)
    if len(generator) != shape[0]:
        raise ValueError(f"{len(generator)} generators for a batch of {shape[0]}; give one, or one per video")
    return torch.cat([draw((1, *shape[1:]), one, device, dtype) for one in generator])


def draw_latents(shape: Sequence[int], generator: Generator, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Noise for latents of shape [B, C, T, H, W], drawn frame before channel as diffusers does."""
    batch, channels, *rest = shape
    return draw((batch, rest[0], channels, *rest[1:]), generator, device, dtype).transpose(1, 2)
