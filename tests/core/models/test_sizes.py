"""Sizes of videos and latents."""

from __future__ import annotations

from cogvideox_core.models.config import TransformerConfig
from cogvideox_core.models.sizes import LatentSize, VideoSize


def test_a_video_is_named_width_first() -> None:
    assert str(VideoSize(height=480, width=720, num_frames=49)) == "720x480, 49 frames"


def test_latents_have_a_shape_and_tokens() -> None:
    size = LatentSize(frames=14, height=60, width=90, leading=1)
    assert size.shape(2, 16) == (2, 16, 14, 60, 90)
    assert size.without_leading() == LatentSize(13, 60, 90, 0)
    first = TransformerConfig(num_attention_heads=1, num_layers=1)
    later = TransformerConfig(num_attention_heads=1, num_layers=1, patch_size_t=2)
    assert (size.tokens(first), size.tokens(later)) == (14 * 30 * 45, 7 * 30 * 45)
