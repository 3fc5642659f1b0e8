"""What follows from a configuration."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from cogvideox_core.models.config import TransformerConfig, VAEConfig


def test_widths_and_patches_of_the_first_models() -> None:
    config = TransformerConfig(num_attention_heads=30, num_layers=30)
    assert (config.width, config.frame_patch, config.image_channels) == (1920, 1, 0)
    assert config.patch_features == 16 * 2 * 2
    with pytest.raises(FrozenInstanceError):
        config.num_layers = 1  # type: ignore[misc]


def test_patches_of_the_later_models_hold_two_frames() -> None:
    config = TransformerConfig(num_attention_heads=48, num_layers=42, patch_size_t=2, in_channels=32)
    assert (config.width, config.frame_patch, config.image_channels) == (3072, 2, 16)
    assert config.patch_features == 16 * 2 * 2 * 2


@pytest.mark.parametrize(("frames", "latent"), [(49, 13), (81, 21), (1, 1)])
def test_a_learned_table_has_a_row_for_each_token_of_the_training_size(frames: int, latent: int) -> None:
    config = TransformerConfig(num_attention_heads=1, num_layers=1, sample_frames=frames)
    assert config.training_grid == (latent, 30, 45)
    assert config.position_rows == 226 + latent * 30 * 45  # 17776 in the published table of 49 frames
    other = TransformerConfig(
        num_attention_heads=1, num_layers=1, patch_size=4, sample_height=40, max_text_seq_length=7
    )
    assert other.training_grid == (13, 10, 22) and other.position_rows == 7 + 13 * 10 * 22


def test_a_vae_halves_its_picture_once_per_level_but_the_last() -> None:
    assert VAEConfig().spatial_compression_ratio == 8
    assert VAEConfig(block_out_channels=(64, 128, 256)).spatial_compression_ratio == 4
