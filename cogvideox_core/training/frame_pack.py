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
from ..models.transformer.block_ops import Run, Runs
from ..models.transformer.model import CogVideoXTransformer3D, unpatchify
from ..models.transformer.positions import Grid, Rotary, rotary_table


class Bundle(NamedTuple):
    """Clips of one shape: latents [b, C, T, H, W], prompt_embeds [b, L, D], timestep [b]."""

    latents: Tensor
    prompt_embeds: Tensor
    timestep: Tensor


class Packed(NamedTuple):
    """What the model makes of each bundle: predictions [b, out_channels, T, H, W], and tokens [b, N, D] half way."""

    predictions: list[Tensor]
    tokens: list[Tensor]


def packed_forward(
    transformer: CogVideoXTransformer3D,
    bundles: Sequence[Bundle],
    attention: AttentionFn | None = None,
    *,
    recompute: bool = False,
    half_way: int = 0,
) -> Packed:
    """What `transformer` makes of every bundle, as if each had been given on its own.

    Args:
        attention: None for PyTorch's; on a CPU in float32, whose backward pass is the faster one there.
        recompute: keep only what enters each block, and compute the rest again in the backward pass.
        half_way: after how many blocks the video tokens are returned.
    Raises: ValueError if a shape does not fit the model.
    """
    grids = [transformer.token_grid(bundle.latents, bundle.prompt_embeds) for bundle in bundles]
    pairs = [
        transformer.patch_embed(bundle.latents, bundle.prompt_embeds, grid)
        for bundle, grid in zip(bundles, grids, strict=True)
    ]
    runs = [Run(len(video), text.shape[1], video.shape[1]) for video, text in pairs]
    video = torch.cat([video.flatten(0, 1) for video, _ in pairs])[None]
    text = torch.cat([text.flatten(0, 1) for _, text in pairs])[None]
    temb = transformer.embed_time(torch.cat([bundle.timestep for bundle in bundles]), None, video)
    rotary = _packed_rotary(transformer, grids, runs, video.device)
    inside = within_clips(runs, attention or (sdpa if video.device.type != "cpu" else _float_sdpa))
    between = video
    for done, block in enumerate(transformer.transformer_blocks, 1):
        video, text = _run_block(block, recompute, video, text, temb, rotary, inside, runs)
        between = video if done == half_way else between
    tokens = transformer.proj_out(transformer.norm_out(transformer.norm_final(video), temb, runs))
    predictions = [
        unpatchify(part, grid, transformer.config) for part, grid in zip(_clips(tokens, runs), grids, strict=True)
    ]
    return Packed(predictions, _clips(between, runs))


def _clips(video: Tensor, runs: Runs) -> list[Tensor]:
    """[b, N, D] for each run of the packed row [1, all N, D]."""
    parts = video[0].split([run.clips * run.video for run in runs])
    return [part.unflatten(0, (run.clips, run.video)) for part, run in zip(parts, runs, strict=True)]


def _run_block(block: nn.Module, recompute: bool, *arguments: Any) -> Any:
    return checkpoint(block, *arguments, use_reentrant=False) if recompute else block(*arguments)


def _packed_rotary(
    transformer: CogVideoXTransformer3D, grids: Sequence[Grid], runs: Runs, device: torch.device
) -> Rotary | None:
    """The rotary tables of all clips, one behind the other, the text in front; None where the model has none."""
    if not transformer.config.use_rotary_positional_embeddings:
        return None
    tables: list[Rotary] = [rotary_table(grid, transformer.config, device) for grid in grids]
    text_rows = sum(run.clips * run.text for run in runs)
    still = torch.ones(text_rows, tables[0][0].shape[1], device=device)
    cos = torch.cat([still, *(cos.repeat(run.clips, 1) for (cos, _), run in zip(tables, runs, strict=True))])
    sin = torch.cat([0 * still, *(sin.repeat(run.clips, 1) for (_, sin), run in zip(tables, runs, strict=True))])
    return cos, sin


def _float_sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    with autocast(q.device.type, enabled=False):
        return sdpa(q.float(), k.float(), v.float()).to(q.dtype)


def within_clips(runs: Runs, attention: AttentionFn = sdpa) -> AttentionFn:
    """An attention over one packed row [all text | all video] in which no clip sees another."""
    text_sizes = [run.clips * run.text for run in runs]
    video_sizes = [run.clips * run.video for run in runs]

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        parts = [tensor.split(text_sizes + video_sizes, dim=2) for tensor in (q, k, v)]
        texts, videos = [], []
        for index, run in enumerate(runs):
            clips = [
                torch.cat([_unpack(part[index], run.clips), _unpack(part[len(runs) + index], run.clips)], dim=2)
                for part in parts
            ]
            tokens = attention(*clips)  # [clips, text + video, heads * d]
            texts.append(tokens[:, : run.text].flatten(0, 1))
            videos.append(tokens[:, run.text :].flatten(0, 1))
        return torch.cat([*texts, *videos])[None]

    return attend


def _unpack(row: Tensor, clips: int) -> Tensor:
    """[1, heads, clips * n, d] -> [clips, heads, n, d]."""
    return row[0].unflatten(1, (clips, -1)).transpose(0, 1)
