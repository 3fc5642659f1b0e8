"""The toy VAE as diffusers builds it and as we do, with the same weights, and inputs for both."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from cogvideox_core.models.config import VAEConfig
from cogvideox_core.models.vae.autoencoder import AutoencoderCausal3D
from cogvideox_core.models.vae.tiling import Tiling
from tests.support.checkpoints import random_vae
from tests.support.parity import assert_parity

BOUND = 1e-5


class Pair:
    """diffusers' model and ours with the same weights."""

    def __init__(self, config: dict[str, Any], seed: int = 0) -> None:
        self.reference: Any = random_vae(config, seed=seed)
        names = {field.name for field in fields(VAEConfig)}
        values: dict[str, Any] = {name: value for name, value in self.reference.config.items() if name in names}
        self.config = VAEConfig(**{**values, "block_out_channels": tuple(values["block_out_channels"])})
        self.ours = AutoencoderCausal3D(self.config).eval().requires_grad_(False)
        self.ours.load_state_dict(self.reference.state_dict(), strict=True)


def video(frames: int, height: int = 32, width: int = 48, batch: int = 1) -> Tensor:
    return torch.rand(batch, 3, frames, height, width, generator=torch.Generator().manual_seed(frames)) * 2 - 1


def latents(frames: int, rows: int = 4, columns: int = 6, batch: int = 1) -> Tensor:
    return torch.randn(batch, 16, frames, rows, columns, generator=torch.Generator().manual_seed(frames))


def latent_frames(frames: int) -> int:
    return -(-frames // 4)


def seeded(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def assert_encodes_alike(pair: Pair, pixels: Tensor, what: str, tiling: Tiling | None = None) -> None:
    ours = pair.ours.encode(pixels, *([tiling] if tiling else []))
    reference = pair.reference.encode(pixels).latent_dist
    assert_parity(ours.mean, reference.mean, BOUND, f"{what} mean")
    assert_parity(ours.logvar, reference.logvar, BOUND, f"{what} logvar")
    assert_parity(ours.mode(), reference.mode(), BOUND, f"{what} mode")
    assert_parity(ours.sample(seeded()), reference.sample(seeded()), BOUND, f"{what} sample")
