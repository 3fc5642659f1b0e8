"""Frame pack: clips of different length and size in one row of tokens, attention kept inside each clip.

Nothing is padded, and every linear layer sees all clips at once. Source: arXiv 2408.06072 section 3.2 (as an idea of
Patch'n Pack, arXiv 2307.06304).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, autocast, nn
from torch.utils.checkpoint import checkpoint

from ..models.transformer.attention import AttentionFn, sdpa
from ..models.transformer.block_ops import PackedClips, Packing
from ..models.transformer.model import CogVideoXTransformer3D, unpatchify
from ..models.transformer.positions import Grid, Rotary, rotary_table


class Bundle(NamedTuple):
    """Clips of one shape: latents [b, C, T, H, W], prompt_embeds [b, L, D], timestep [b]."""

    latents: Tensor
    prompt_embeds: Tensor
    timestep: Tensor


class Packed(NamedTuple):
    """For each bundle the predictions [b, out_channels, T, H, W], and the video tokens [b, N, D] after some block."""

    predictions: list[Tensor]
    tokens: list[Tensor]


def packed_forward(
    transformer: CogVideoXTransformer3D,
    bundles: Sequence[Bundle],
    attention: AttentionFn | None = None,
    *,
    recompute: bool = False,
    tokens_after: int = 0,
) -> Packed:
    """The output of `transformer` for every bundle, as if each had been its only input.

    Args:
        bundles: latents [b, C, T, H, W], prompt_embeds [b, L, D] and timestep [b]; all but D and C may differ.
        attention: None for PyTorch's; on a CPU in float32, whose backward pass is the faster one there.
        recompute: keep only the inputs of each block, and compute its activations again in the backward pass.
        tokens_after: after how many blocks the video tokens are returned; 0 for those that enter the first.
    Returns: predictions, each [b, out_channels, T, H, W]; tokens, each [b, N, D].
    Raises: ValueError if a shape does not fit the model.
    """
    grids = [transformer.token_grid(bundle.latents, bundle.prompt_embeds) for bundle in bundles]
    pairs = [
        transformer.patch_embed(bundle.latents, bundle.prompt_embeds, grid)
        for bundle, grid in zip(bundles, grids, strict=True)
    ]
    packing = [PackedClips(len(video), text.shape[1], video.shape[1]) for video, text in pairs]
    video = torch.cat([video.flatten(0, 1) for video, _ in pairs])[None]
    text = torch.cat([text.flatten(0, 1) for _, text in pairs])[None]
    temb = transformer.embed_time(torch.cat([bundle.timestep for bundle in bundles]), None, video)
    rotary = _packed_rotary(transformer, grids, packing, video.device)
    inside = within_clips(packing, attention or (sdpa if video.device.type != "cpu" else _float_sdpa))
    between = video
    for done, block in enumerate(transformer.transformer_blocks, 1):
        video, text = _run_block(block, recompute, video, text, temb, rotary, inside, packing)
        between = video if done == tokens_after else between
    tokens = transformer.proj_out(transformer.norm_out(transformer.norm_final(video), temb, packing))
    predictions = [
        unpatchify(part, grid, transformer.config) for part, grid in zip(_clips(tokens, packing), grids, strict=True)
    ]
    return Packed(predictions, _clips(between, packing))


def _clips(video: Tensor, packing: Packing) -> list[Tensor]:
    """[b, N, D] for each group of clips in the packed row [1, all N, D]."""
    parts = video[0].split([group.count * group.video for group in packing])
    return [part.unflatten(0, (group.count, group.video)) for part, group in zip(parts, packing, strict=True)]


def _run_block(block: nn.Module, recompute: bool, *arguments: Any) -> Any:
    return checkpoint(block, *arguments, use_reentrant=False) if recompute else block(*arguments)


def _packed_rotary(
    transformer: CogVideoXTransformer3D, grids: Sequence[Grid], packing: Packing, device: torch.device
) -> Rotary | None:
    """The rotary tables of the whole row, clip after clip, text first; None where the model has none.

    Text tokens are not rotated: cos is 1 and sin is 0.
    """
    if not transformer.config.use_rotary_positional_embeddings:
        return None
    tables: list[Rotary] = [rotary_table(grid, transformer.config, device) for grid in grids]
    text_rows = sum(group.count * group.text for group in packing)
    ones = torch.ones(text_rows, tables[0][0].shape[1], device=device)
    cos = torch.cat([ones, *(cos.repeat(group.count, 1) for (cos, _), group in zip(tables, packing, strict=True))])
    sin = torch.cat([0 * ones, *(sin.repeat(group.count, 1) for (_, sin), group in zip(tables, packing, strict=True))])
    return cos, sin


def _float_sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    with autocast(q.device.type, enabled=False):
        return sdpa(q.float(), k.float(), v.float()).to(q.dtype)


def within_clips(packing: Packing, attention: AttentionFn = sdpa) -> AttentionFn:
    """An attention over one packed row [all text | all video] in which no clip attends to another.

    The returned function takes q, k, v [1, heads, all tokens, d] and returns [1, all tokens, heads * d].
    """
    text_sizes = [group.count * group.text for group in packing]
    video_sizes = [group.count * group.video for group in packing]

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        parts = [tensor.split(text_sizes + video_sizes, dim=2) for tensor in (q, k, v)]
        texts, videos = [], []
        for index, group in enumerate(packing):
            clips = [
                torch.cat([_unpack(part[index], group.count), _unpack(part[len(packing) + index], group.count)], dim=2)
                for part in parts
            ]
            tokens = attention(*clips)  # [clips, text + video, heads * d]
            texts.append(tokens[:, : group.text].flatten(0, 1))
            videos.append(tokens[:, group.text :].flatten(0, 1))
        return torch.cat([*texts, *videos])[None]

    return attend


def _unpack(row: Tensor, clips: int) -> Tensor:
    """[1, heads, clips * n, d] -> [clips, heads, n, d]."""
    return row[0].unflatten(1, (clips, -1)).transpose(0, 1)
