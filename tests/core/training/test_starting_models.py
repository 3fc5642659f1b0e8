"""What training starts from: new models that begin as they should, and trained ones that are widened."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cogvideox_core import VARIANTS, load_transformer
from cogvideox_core.models.transformer.attention import sdpa
from cogvideox_core.models.vae.blocks import ResnetBlock3D
from cogvideox_core.training.starting_models import starting_transformer, starting_vae
from tests.support.checkpoints import make_checkpoint
from tests.support.parity import assert_parity

SHAPE = {"num_attention_heads": 2, "num_layers": 1, "time_embed_dim": 8, "text_embed_dim": 32}
VAE = {"block_out_channels": [8, 8, 8, 8], "layers_per_block": 1, "norm_num_groups": 4}


def test_a_new_transformer_starts_as_the_identity() -> None:
    transformer = starting_transformer(SHAPE, VARIANTS["CogVideoX-5B"], None)
    inputs = torch.randn(1, 16, 3, 4, 6), torch.randn(1, 9, 32), torch.tensor([600])
    assert not transformer(*inputs).any()
    (block,) = transformer.transformer_blocks
    video, text, temb = torch.randn(1, 18, 128), torch.randn(1, 9, 128), torch.randn(1, 8)
    for ours, before in zip(block(video, text, temb, None, sdpa), (video, text), strict=True):
        assert torch.equal(ours, before)


def test_a_new_vae_keeps_the_size_of_signals() -> None:
    torch.manual_seed(0)
    vae = starting_vae(VAE, None)
    assert vae.config.block_out_channels == (8, 8, 8, 8)
    shut = [module.conv2.conv.weight for module in vae.modules() if isinstance(module, ResnetBlock3D)]
    assert shut and not any(weight.any() for weight in shut)
    latents = vae.encode(torch.randn(1, 3, 9, 32, 32)).mean
    decoded = vae.decode(torch.randn_like(latents))
    assert 0.1 < latents.std() < 10 and 0.1 < decoded.std() < 10


@pytest.mark.parametrize("narrow", ["CogVideoX-5B", "CogVideoX1.5-5B"])
def test_new_input_channels_change_nothing_at_first(narrow: str, tmp_path: Path) -> None:
    model = make_checkpoint(tmp_path, narrow)
    before = load_transformer(model, dtype=torch.float32)
    after = starting_transformer(None, VARIANTS[f"{narrow}-I2V"], model)
    assert after.config.in_channels == 32 and not after.config.use_learned_positional_embeddings
    latents = torch.randn(1, 16, 2 * before.config.frame_patch, 4, 6)
    inputs = torch.randn(1, 9, before.config.text_embed_dim), torch.tensor([600])
    found = after(torch.cat([latents, torch.randn_like(latents)], dim=1), *inputs)
    assert_parity(found, before(latents, *inputs), 1e-5, f"{narrow}, widened")


def test_a_table_of_learned_positions_is_kept_and_one_of_zeros_left_out(tmp_path: Path) -> None:
    variant = VARIANTS["CogVideoX-5B-I2V"]
    model = make_checkpoint(tmp_path, variant.name)
    kept = starting_transformer(None, variant, model)
    table = load_transformer(model, dtype=torch.float32).state_dict()["patch_embed.pos_embedding"]
    assert table.any() and torch.equal(kept.state_dict()["patch_embed.pos_embedding"], table)


@pytest.mark.parametrize("part", ["vae", "transformer"])
def test_a_part_that_is_neither_new_nor_given_is_named(part: str) -> None:
    with pytest.raises(ValueError, match=f"the recipe makes no {part} of its own; give the folder of a model"):
        starting_vae(None, None) if part == "vae" else starting_transformer(None, VARIANTS["CogVideoX-5B"], None)


def test_a_field_that_no_config_has_is_named() -> None:
    with pytest.raises(ValueError, match="VAEConfig has no field depth; it takes .*latent_channels"):
        starting_vae({"depth": 3}, None)
