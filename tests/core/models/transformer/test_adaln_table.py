"""Modulation of a whole schedule at once: the same numbers, without the matrices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cogvideox_core import CogVideoXTransformer3D, load_transformer
from cogvideox_core.models.transformer.adaln_table import tabulated
from tests.support.checkpoints import OFFICIAL
from tests.support.parity import assert_parity

TIMESTEPS = (999, 640, 20)


def inputs(transformer: CogVideoXTransformer3D, timestep: int) -> tuple[Tensor, Tensor, Tensor]:
    config, generator = transformer.config, torch.Generator().manual_seed(timestep)
    latents = torch.randn(2, config.in_channels, 2 * config.frame_patch, 8, 12, generator=generator)
    embeds = torch.randn(2, config.max_text_seq_length, config.text_embed_dim, generator=generator)
    return latents, embeds, torch.full((2,), timestep)


@pytest.mark.parametrize("kind", list(OFFICIAL))
@torch.no_grad()
def test_tables_give_the_numbers_of_the_matrices(kind: str, checkpoint: Callable[..., Path]) -> None:
    transformer = load_transformer(checkpoint(kind), dtype="float32")
    wanted = {timestep: transformer(*inputs(transformer, timestep)) for timestep in TIMESTEPS}
    with tabulated(transformer, TIMESTEPS, torch.zeros(1)):
        for timestep in reversed(TIMESTEPS):
            found = transformer(*inputs(transformer, timestep))
            assert_parity(found, wanted[timestep], 1e-6, f"{kind} at timestep {timestep}")
    assert torch.equal(transformer(*inputs(transformer, 640)), wanted[640])


@torch.no_grad()
def test_inside_the_matrices_are_not_used_and_afterwards_they_are_back(checkpoint: Callable[..., Path]) -> None:
    transformer = load_transformer(checkpoint("CogVideoX-5B"), dtype="float32")
    keys = list(transformer.state_dict())
    block: Any = transformer.transformer_blocks[1]
    layer = block.norm2.linear
    with pytest.raises(KeyError), tabulated(transformer, TIMESTEPS, torch.zeros(1)):
        assert layer not in set(transformer.modules())
        raise KeyError
    assert block.norm2.linear is layer
    assert list(transformer.state_dict()) == keys
    assert transformer.tabulated_timesteps is None


@torch.no_grad()
def test_what_hangs_on_a_matrix_counts(checkpoint: Callable[..., Path]) -> None:
    """A LoRA does, as a hook."""
    transformer = load_transformer(checkpoint("CogVideoX-5B"), dtype="float32")
    plain = transformer(*inputs(transformer, 640))
    block: Any = transformer.transformer_blocks[0]
    block.norm1.linear.register_forward_hook(lambda layer, given, out: out + 0.1)
    wanted = transformer(*inputs(transformer, 640))
    with tabulated(transformer, TIMESTEPS, torch.zeros(1)):
        found = transformer(*inputs(transformer, 640))
    assert not torch.allclose(wanted, plain, atol=1e-3)
    assert_parity(found, wanted, 1e-6, "with a hook")
