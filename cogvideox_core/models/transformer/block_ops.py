"""What a block computes between its matrices: norms with their modulation, rotation, gated residuals.

On a GPU where Triton runs each is one kernel (kernels/triton_tokens.py), which reads and writes every number once;
elsewhere, and in training, it is PyTorch. A layer norm hands its weights to a kernel by a method `kernel_weights(x)`,
which returns (weight, bias), or None if the norm must be called itself; a norm without that method is called.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ...kernels.availability import uses_triton
from .positions import Rotary, apply_rotary


class PackedClips(NamedTuple):
    """Clips of one length, next to each other in a packed row: how many, and the text and video tokens of each."""

    count: int
    text: int
    video: int


_ROWS = 512  # tokens whose heads are computed at a time on a CPU

Packing = Sequence[PackedClips]
"""What packed rows hold: text tokens of all clips [1, sum(count * text), D], video tokens likewise, a temb per clip."""


def modulated(norm: Any, text: Tensor, video: Tensor, modulation: Tensor, packing: Packing | None = None) -> Tensor:
    """The norm of text [B, L, D] and video [B, N, D], times 1 + scale plus shift, text first -> [B, L + N, D].

    Args: modulation: [B, 6 D], shift, scale and gate of the video, then of the text. packing: for one packed row.
    """
    weights = None if packing else _weights_for_kernel(norm, text, video, modulation)
    if weights is not None:
        return _kernels().modulated(text, video, *weights, modulation, norm.eps)
    parts = []
    for tokens, (shift, scale, _) in zip((text, video), _by_part(modulation, packing), strict=True):
        parts.append((shift, norm(tokens), 1 + scale))
    if torch.is_grad_enabled() or torch.compiler.is_compiling():  # torch.compile saves the copy itself
        return torch.cat([torch.addcmul(*part) for part in parts], dim=1)
    joint = parts[0][1].new_empty(len(text), text.shape[1] + video.shape[1], text.shape[2])
    for part, rows in zip(parts, joint.split([text.shape[1], video.shape[1]], dim=1), strict=True):
        torch.addcmul(*part, out=rows)
    return joint


def gated(
    text: Tensor, video: Tensor, tokens: Tensor, modulation: Tensor, packing: Packing | None = None
) -> tuple[Tensor, Tensor]:
    """text [B, L, D] and video [B, N, D] plus gate * tokens [B, L + N, D] -> (text, video); modulation as above."""
    if not packing and uses_triton(text, video, tokens, modulation):
        return _kernels().gated(text, video, tokens, modulation)
    (_, _, text_gate), (_, _, video_gate) = _by_part(modulation, packing)
    text_tokens, video_tokens = tokens.split([text.shape[1], video.shape[1]], dim=1)
    return torch.addcmul(text, text_gate, text_tokens), torch.addcmul(video, video_gate, video_tokens)


def normed_heads(norm: Any, x: Tensor, rotary: Rotary | None) -> Tensor:
    """The norm of each head of x [B, S, heads, d], rotated where there is a table -> [B, S, heads, d].

    Args: x: may be overwritten. rotary: (cos, sin), each [S, d / 2].
    """
    weights = _weights_for_kernel(norm, x)
    if weights is not None and x.is_contiguous() and x.shape[-1] & (x.shape[-1] - 1) == 0:
        return _kernels().normed_heads(x, *weights, rotary, norm.eps)
    if rotary is None:
        return norm(x)
    in_parts = x.device.type == "cpu" and x.shape[1] > _ROWS
    if not in_parts or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return apply_rotary(norm(x), rotary)
    for clip in x.unbind():  # in parts that stay in the cache, into memory that is there already
        for part, *angles in zip(*(whole.split(_ROWS) for whole in (clip, *rotary)), strict=True):
            part.copy_(apply_rotary(norm(part[None]), (angles[0], angles[1]))[0])
    return x


def per_token(modulation: Tensor, packing: Packing | None, part: Literal["text", "video"]) -> Tensor:
    """Modulation [B, C], one row per clip, repeated for the tokens of `part`.

    Returns: [1, tokens, C] for a packed row; [B, 1, C] for a batch, where row b is clip b.
    """
    if packing is None:
        return modulation[:, None]
    rows = modulation.split([clips.count for clips in packing])
    spread = [row[:, None].expand(-1, getattr(clips, part), -1) for row, clips in zip(rows, packing, strict=True)]
    return torch.cat([tokens.flatten(0, 1) for tokens in spread])[None]


def _by_part(modulation: Tensor, packing: Packing | None) -> list[tuple[Tensor, ...]]:
    """Shift, scale and gate of the text, then of the video."""
    of_video, of_text = modulation.chunk(2, dim=-1)
    return [
        per_token(of_text, packing, "text").chunk(3, dim=-1),
        per_token(of_video, packing, "video").chunk(3, dim=-1),
    ]


def _weights_for_kernel(norm: Any, *tensors: Tensor) -> tuple[Tensor, Tensor] | None:
    offers = getattr(norm, "kernel_weights", None)
    return offers(tensors[0]) if offers is not None and uses_triton(*tensors) else None


def _kernels() -> Any:
    from ...kernels import triton_tokens as tokens

    return tokens
