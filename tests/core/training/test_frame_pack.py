"""Packed clips: predictions, gradients and tokens are those of each clip alone, in every variant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cogvideox_core import VARIANTS, CogVideoXTransformer3D, load_transformer
from cogvideox_core.models.transformer.attention import sdpa
from cogvideox_core.models.transformer.block_ops import PackedClips
from cogvideox_core.training.frame_pack import Bundle, packed_forward, within_clips
from tests.support.checkpoints import make_checkpoint
from tests.support.parity import assert_parity


@pytest.mark.parametrize("kind", VARIANTS)
def test_packed_clips_are_as_if_each_were_alone(kind: str, tmp_path: Path) -> None:
    transformer = load_transformer(make_checkpoint(tmp_path, kind), dtype=torch.float32).requires_grad_(True)
    config = transformer.config
    sizes = [(2, 1, 4, 6, 5), (1, 3, 4, 4, 9), (3, 2, 8, 2, 5)]  # clips, frames, rows, columns, text tokens
    if config.use_learned_positional_embeddings:  # its table knows one size and one length of text
        sizes = [(count, frames, 8, 12, 226) for count, frames, *_ in sizes]
    generator = torch.Generator().manual_seed(0)
    bundles = [
        Bundle(
            torch.randn(clips, config.in_channels, frames * config.frame_patch, rows, columns, generator=generator),
            torch.randn(clips, length, config.text_embed_dim, generator=generator),
            torch.randint(0, 1000, (clips,), generator=generator),
        )
        for clips, frames, rows, columns, length in sizes
    ]
    alone = [transformer(*bundle) for bundle in bundles]
    wanted = _gradients(transformer, alone)
    for recompute in (False, True):
        packed = packed_forward(transformer, bundles, recompute=recompute).predictions
        for index, (ours, reference) in enumerate(zip(packed, alone, strict=True)):
            assert_parity(ours, reference, 1e-5, f"{kind}, packed clip {index}")
        assert_parity(_gradients(transformer, packed), wanted, 1e-4, f"{kind}, gradients of the pack")


def _gradients(transformer: CogVideoXTransformer3D, predictions: list[Tensor]) -> Tensor:
    loss = sum(prediction.square().sum() for prediction in predictions)
    assert isinstance(loss, Tensor)
    parameters = list(transformer.parameters())
    return torch.cat([gradient.flatten() for gradient in torch.autograd.grad(loss, parameters)])


def test_packed_clips_give_their_tokens_after_any_block(toy: Path) -> None:
    transformer = load_transformer(toy, dtype=torch.float32)
    bundles = [
        Bundle(torch.randn(2, 16, 3, 4, 6), torch.randn(2, 5, 32), torch.tensor([7, 900])),
        Bundle(torch.randn(1, 16, 1, 8, 4), torch.randn(1, 9, 32), torch.tensor([500])),
    ]
    for depth, block in enumerate(transformer.transformer_blocks, 1):
        seen: list[Any] = []
        packed = packed_forward(transformer, bundles, tokens_after=depth)
        watch = block.register_forward_hook(lambda *call, seen=seen: seen.append(call[-1]))
        for bundle in bundles:
            transformer(*bundle)
        watch.remove()
        for ours, (video, _) in zip(packed.tokens, seen, strict=True):
            assert_parity(ours, video, 1e-5, f"tokens after block {depth}")


def test_a_clip_attends_to_itself_alone() -> None:
    packing = [PackedClips(count=2, text=1, video=3), PackedClips(count=1, text=2, video=4)]
    q, k, v = torch.randn(3, 1, 2, 14, 8).unbind()
    row = within_clips(packing)(q, k, v)
    assert row.shape == (1, 14, 16)
    second = [1, 7, 8, 9]  # text and video of the second clip: the row is all text, then all video
    alone = sdpa(*(tensor[:, :, second] for tensor in (q, k, v)))
    assert_parity(row[:, second], alone, 1e-6, "the second clip of the first run")
