"""Attention on a CPU by blocks of queries, whose products oneDNN computes.

PyTorch's own kernel multiplies by MKL, piece by piece; on an AMD processor this way takes about 0.6 of its time
(docs/performance-cpu.md). Both compute scores and softmax in float32, so they differ by rounding only.
"""

from __future__ import annotations

import math
import platform

import torch
import torch.nn.functional as F
from torch import Tensor

from .layers import HAS_ONEDNN, wants_gradients

SHORTEST = 768  # tokens; below that Python between the blocks takes longer than is saved
_ROWS, _FEWEST_ROWS = 512, 64
_SCORES = 1 << 22  # more than that in a block would lie outside of every cache
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def is_at_hand() -> bool:
    """Whether PyTorch brings oneDNN's products and runs on a processor of the kind this was measured on."""
    return HAS_ONEDNN and platform.machine().lower() in ("x86_64", "amd64")


@torch.compiler.assume_constant_result
def is_preferred(dtype: torch.dtype) -> bool:
    """Whether to take it where nobody chose.

    In 16 bits PyTorch's own kernel uses Intel's AMX, which this does not. Where PyTorch cannot tell of AMX, its own is
    kept.
    """
    if dtype not in _DTYPES or not is_at_hand():
        return False
    return dtype == torch.float32 or not _supports("amx_tile", otherwise=True)


def by_onednn(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of q, k, v [B, heads, S, d]; returns [B, S, heads * d].

    16 bits are computed in float32, but for probabilities times values in bfloat16, where the processor can multiply
    that. It is PyTorch's own for short sequences and other numbers, and where gradients are wanted or torch.compile
    traces.
    """
    if _is_left_to_pytorch(q, k, v):
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    batch, heads, length, head_dim = q.shape
    rows = max(_FEWEST_ROWS, min(_ROWS, _SCORES // k.shape[2]))
    rows = math.ceil(length / math.ceil(length / rows))
    in_bf16 = q.dtype == torch.bfloat16 and _supports("avx512_bf16", otherwise=False)
    out = q.new_empty(batch, length, heads, head_dim)
    probabilities = q.new_empty(rows, k.shape[2], dtype=torch.float32)
    for clip in range(batch):
        for head in range(heads):
            keys, values = k[clip, head].float().contiguous(), v[clip, head]
            transposed = None if in_bf16 else values.t().float().contiguous()
            for queries, into in zip(q[clip, head].split(rows), out[clip, :, head].split(rows), strict=True):
                scores = _times_transposed(queries.float() * head_dim**-0.5, keys)
                shares = torch.softmax(scores, dim=-1, out=probabilities[: len(queries)])
                into.copy_(shares.bfloat16() @ values if transposed is None else _times_transposed(shares, transposed))
    return out.flatten(2)


def _is_left_to_pytorch(q: Tensor, k: Tensor, v: Tensor) -> bool:
    short = min(q.shape[2], k.shape[2]) < SHORTEST
    return short or q.dtype not in _DTYPES or wants_gradients(q, k, v) or torch.compiler.is_compiling()


def _times_transposed(x: Tensor, weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")


def _supports(what: str, *, otherwise: bool) -> bool:
    """Whether the processor has it; `otherwise` where this PyTorch cannot tell."""
    return getattr(torch.cpu, f"_is_{what}_supported", lambda: otherwise)()
