"""Triton kernels for what a transformer block computes between its matrices, each in one pass over memory.

They compute in float32 and round once, where the same in PyTorch rounds after every operation.
models/transformer/block_ops.py decides when they run. A program computes one token, all of its channels at once.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .availability import on_its_device


@on_its_device
def modulated(text: Tensor, video: Tensor, weight: Tensor, bias: Tensor, modulation: Tensor, eps: float) -> Tensor:
    """LayerNorm of text [B, L, D] and video [B, N, D], each times 1 + scale plus shift -> [B, L + N, D].

    Args: modulation: [B, 6 D], shift, scale and gate of the video, then of the text.
    """
    batch, text_length, width = text.shape
    out = text.new_empty(batch, text_length + video.shape[1], width)
    lengths = text_length, video.shape[1], width
    _modulated[_rows(out)](
        text.contiguous(),
        video.contiguous(),
        weight,
        bias,
        modulation.contiguous(),
        out,
        *lengths,
        eps,
        **_block(width),
    )
    return out


@on_its_device
def gated(text: Tensor, video: Tensor, tokens: Tensor, modulation: Tensor) -> tuple[Tensor, Tensor]:
    """text [B, L, D] and video [B, N, D] plus gate * tokens [B, L + N, D] -> (text, video); modulation as above."""
    out = (
        torch.empty_like(text, memory_format=torch.contiguous_format),
        torch.empty_like(video, memory_format=torch.contiguous_format),
    )
    lengths = text.shape[1], video.shape[1], text.shape[2]
    _gated[_rows(tokens)](
        text.contiguous(),
        video.contiguous(),
        tokens.contiguous(),
        modulation.contiguous(),
        *out,
        *lengths,
        **_block(text.shape[2]),
    )
    return out


@on_its_device
def normed_heads(x: Tensor, weight: Tensor, bias: Tensor, rotary: tuple[Tensor, Tensor] | None, eps: float) -> Tensor:
    """LayerNorm of each head of x [B, S, heads, d], then rotated, in place. d is a power of two.

    Args:
        weight, bias: [d].
        rotary: (cos, sin), each [S, d / 2]; None for no rotation.
    """
    _, length, heads, head_dim = x.shape
    cos, sin = rotary or (weight, weight)
    options: dict[str, Any] = {
        "ROTATED": rotary is not None,
        "HEADS": triton.next_power_of_2(heads),
        "HALF": head_dim // 2,
    }
    _normed_heads[_rows(x.flatten(2))](x, weight, bias, cos, sin, length, heads, eps, **options)
    return x


def _rows(tokens: Tensor) -> tuple[int]:
    return (tokens.shape[0] * tokens.shape[1],)


def _block(width: int) -> dict[str, Any]:
    return {"BLOCK": triton.next_power_of_2(width), "num_warps": 8 if width > 2048 else 4}


@triton.jit
def _modulated(
    text, video, weight, bias, modulation, out, text_length, video_length, width, eps, BLOCK: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    clip, token = row // (text_length + video_length), row % (text_length + video_length)
    column = tl.arange(0, BLOCK)
    inside = column < width
    modulation += clip * 6 * width + column  # of the video; the text's chunks are the last three
    if token < text_length:
        values = tl.load(text + (clip * text_length + token) * width + column, mask=inside, other=0.0)
        modulation += 3 * width
    else:
        values = tl.load(video + (clip * video_length + token - text_length) * width + column, mask=inside, other=0.0)
    values = values.to(tl.float32)
    mean = tl.sum(values, 0) / width
    centred = tl.where(inside, values - mean, 0.0)
    variance = tl.sum(centred * centred, 0) / width
    normed = centred * tl.rsqrt(variance + eps)
    normed = normed * tl.load(weight + column, mask=inside).to(tl.float32)
    normed += tl.load(bias + column, mask=inside).to(tl.float32)
    shift = tl.load(modulation, mask=inside).to(tl.float32)
    scale = tl.load(modulation + width, mask=inside).to(tl.float32)
    tl.store(out + row * width + column, normed * (1.0 + scale) + shift, mask=inside)


@triton.jit
def _gated(
    text, video, tokens, modulation, text_out, video_out, text_length, video_length, width, BLOCK: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    clip, token = row // (text_length + video_length), row % (text_length + video_length)
    column = tl.arange(0, BLOCK)
    inside = column < width
    added = tl.load(tokens + row * width + column, mask=inside).to(tl.float32)
    gate = modulation + clip * 6 * width + 2 * width + column  # the video's, the third chunk; the text's is the sixth
    if token < text_length:
        at = (clip * text_length + token) * width + column
        values = tl.load(text + at, mask=inside).to(tl.float32)
        tl.store(text_out + at, values + tl.load(gate + 3 * width, mask=inside).to(tl.float32) * added, mask=inside)
    else:
        at = (clip * video_length + token - text_length) * width + column
        values = tl.load(video + at, mask=inside).to(tl.float32)
        tl.store(video_out + at, values + tl.load(gate, mask=inside).to(tl.float32) * added, mask=inside)


@triton.jit
def _normed_heads(
    x, weight, bias, cos, sin, length, heads, eps,
    ROTATED: tl.constexpr, HEADS: tl.constexpr, HALF: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, HEADS)[:, None]
    channel = tl.arange(0, 2 * HALF)
    at = x + (row * heads + head) * 2 * HALF + channel[None, :]
    values = tl.load(at, mask=head < heads, other=0.0).to(tl.float32)
    centred = values - (tl.sum(values, 1) / (2 * HALF))[:, None]
    variance = tl.sum(centred * centred, 1) / (2 * HALF)
    values = centred * tl.rsqrt(variance + eps)[:, None]
    values = (
        values * tl.load(weight + channel).to(tl.float32)[None, :] + tl.load(bias + channel).to(tl.float32)[None, :]
    )
    if ROTATED:
        pair = (row % length) * HALF + tl.arange(0, HALF)
        c, s = tl.load(cos + pair)[None, :], tl.load(sin + pair)[None, :]
        even, odd = tl.split(tl.reshape(values, (HEADS, HALF, 2)))  # neighbouring channels are a pair
        values = tl.reshape(tl.join(even * c - odd * s, odd * c + even * s), (HEADS, 2 * HALF))
    tl.store(at, values, mask=head < heads)
