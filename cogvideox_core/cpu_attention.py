"""Attention on a CPU by blocks of queries, whose products oneDNN computes.

PyTorch's own kernel multiplies by MKL, piece by piece. On an AMD processor this way takes 0.6 of its time in float32,
and half in bfloat16. Both compute scores and softmax in float32, so they differ by rounding only.
"""

from __future__ import annotations

import math
import platform

import torch
import torch.nn.functional as F
from torch import Tensor

from .layers import HAS_ONEDNN

_ROWS, _FEWEST_ROWS = 512, 64
_SCORES = 1 << 22  # more than that in a block would lie outside of every cache
_SHORT = 768  # tokens; below that Python between the blocks takes longer than is saved
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def is_at_hand() -> bool:
    """Whether PyTorch brings what it needs, for a processor it was written for."""
    return HAS_ONEDNN and platform.machine().lower() in ("x86_64", "amd64")


def is_fastest(dtype: torch.dtype) -> bool:
    """Whether to take it where nobody chose: in 16 bits PyTorch's own kernel uses Intel's AMX, which this does not."""
    return is_at_hand() and (dtype == torch.float32 or not _supports("amx_tile"))


def by_onednn(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of q, k, v [B, heads, S, d]; returns [B, S, heads * d].

    16 bits are computed in float32, but probabilities times values in bfloat16 where the processor can. It is PyTorch's
    own for short sequences and other numbers, and where gradients are wanted or torch.compile traces.
    """
    if k.shape[2] < _SHORT or q.dtype not in _DTYPES or _is_traced(q, k, v):
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    batch, heads, length, head_dim = q.shape
    rows = max(_FEWEST_ROWS, min(_ROWS, _SCORES // k.shape[2]))
    rows = math.ceil(length / math.ceil(length / rows))
    in_bf16 = q.dtype == torch.bfloat16 and _supports("avx512_bf16")
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


def _times_transposed(x: Tensor, weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")


def _is_traced(*tensors: Tensor) -> bool:
    wanted = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    return wanted or torch.compiler.is_compiling()


def _supports(what: str) -> bool:
    return bool(getattr(torch.cpu, f"_is_{what}_supported", lambda: False)())
