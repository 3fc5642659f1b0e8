"""What a block computes between its matrices: for a batch, and for clips packed into one row."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import LayerNorm

from cogvideox_core.models.transformer.block_ops import PackedClips, gated, modulated, normed_heads, per_token
from cogvideox_core.models.transformer.positions import apply_rotary
from tests.support.parity import assert_parity

WIDTH = 12
PACKING = [PackedClips(count=2, text=3, video=5), PackedClips(count=1, text=4, video=2)]


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def in_row(tensor: Tensor) -> Tensor:
    """[b, n, D] -> [b * n, D]."""
    return tensor.flatten(0, 1)


def test_modulation_scales_and_shifts_each_modality_by_its_own() -> None:
    norm = LayerNorm(WIDTH).requires_grad_(False)
    text, video, modulation = drawn(2, 3, WIDTH), drawn(2, 5, WIDTH), drawn(2, 6 * WIDTH)
    shift, scale, gate, text_shift, text_scale, text_gate = (part[:, None] for part in modulation.chunk(6, dim=1))
    joint = torch.cat([norm(text) * (1 + text_scale) + text_shift, norm(video) * (1 + scale) + shift], dim=1)
    with torch.no_grad():
        assert_parity(modulated(norm, text, video, modulation), joint, 1e-6, "in inference")
    assert_parity(modulated(norm, text, video, modulation), joint, 1e-6, "in training")
    found = gated(text, video, joint, modulation)
    for ours, wanted in zip(found, (text + text_gate * joint[:, :3], video + gate * joint[:, 3:]), strict=True):
        assert_parity(ours, wanted, 1e-6, "gated")


@pytest.mark.parametrize("grad", [False, True])
def test_a_packed_row_gives_what_each_group_gives_alone(grad: bool) -> None:
    norm = LayerNorm(WIDTH).requires_grad_(False)
    groups = [
        (drawn(clips.count, clips.text, WIDTH), drawn(clips.count, clips.video, WIDTH), drawn(clips.count, 6 * WIDTH))
        for clips in PACKING
    ]
    texts, videos, modulations = zip(*groups, strict=True)
    row_text, row_video = (torch.cat([in_row(part) for part in parts])[None] for parts in (texts, videos))
    modulation = torch.cat(modulations)
    length = row_text.shape[1]
    with torch.set_grad_enabled(grad):
        row = modulated(norm, row_text, row_video, modulation, PACKING)
        alone = [modulated(norm, *group) for group in groups]
        rest = gated(row_text, row_video, row, modulation, PACKING)
        rest_alone = [
            gated(text, video, tokens, part) for (text, video, part), tokens in zip(groups, alone, strict=True)
        ]
    parts = [(tokens[:, : clips.text], tokens[:, clips.text :]) for tokens, clips in zip(alone, PACKING, strict=True)]
    for found, wanted in (((row[:, :length], row[:, length:]), parts), (rest, rest_alone)):
        for index in range(2):
            together = torch.cat([in_row(part[index]) for part in wanted])[None]
            assert_parity(found[index], together, 1e-6, f"part {index}")


def test_a_row_of_modulation_reaches_every_token_of_its_clip() -> None:
    modulation = torch.arange(3.0)[:, None]
    assert per_token(modulation, PACKING, "text").flatten().tolist() == [0] * 3 + [1] * 3 + [2] * 4
    assert per_token(modulation, PACKING, "video").flatten().tolist() == [0] * 5 + [1] * 5 + [2] * 2
    assert per_token(modulation, None, "text").shape == (3, 1, 1)


@pytest.mark.parametrize("tokens", [5, 1100])
@pytest.mark.parametrize("rotated", [False, True])
@torch.no_grad()
def test_heads_are_normed_then_rotated(rotated: bool, tokens: int) -> None:
    """Many of them in parts."""
    norm, x, angles = LayerNorm(8), drawn(2, tokens, 3, 8), drawn(tokens, 4)
    rotary = (angles.cos(), angles.sin()) if rotated else None
    wanted = norm(x) if rotary is None else apply_rotary(norm(x), rotary)
    assert torch.equal(normed_heads(norm, x.clone(), rotary), wanted)
