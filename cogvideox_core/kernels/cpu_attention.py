"""Attention on a CPU by blocks of queries, whose products oneDNN computes.

PyTorch's own kernel multiplies by MKL, piece by piece. Neither is the faster one everywhere, so that is measured
(choices.py). Both compute scores and softmax in float32, so they differ by rounding only.
"""

from __future__ import annotations

import math
import platform
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from .choices import Ways, fastest
from .gradients import needs_gradients
from .torch_symbols import constant_when_compiled, cpu_has, has_onednn_linear, onednn_linear

SHORTEST = 768  # tokens; for fewer, Python between the blocks takes longer than is saved
_ROWS, _FEWEST_ROWS = 512, 64  # queries of a block
_SCORES = 1 << 22  # scores of a block, 16 MiB: more would not stay in a cache
_EXAMPLE = 2048  # tokens
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def is_available() -> bool:
    """Whether PyTorch has oneDNN's products and runs on a processor of the kind this was measured on."""
    return platform.machine().lower() in ("x86_64", "amd64") and has_onednn_linear()


@constant_when_compiled
def is_default(dtype: torch.dtype) -> bool:
    """Whether "auto" means this attention for q, k, v of a dtype: where it is the faster one.

    Where nothing is measured, it is but in 16 bits with Intel's AMX, which PyTorch's own kernel uses and this does not;
    a PyTorch that cannot say whether there is AMX counts as one that has it.
    """
    if dtype not in _DTYPES or not is_available():
        return False
    usual = dtype == torch.float32 or not cpu_has("amx_tile", if_unknown=True)
    operation = f"attention in {str(dtype).removeprefix('torch.')}"
    return fastest(operation, partial(_ways, dtype), "onednn" if usual else "pytorch") == "onednn"


def _ways(dtype: torch.dtype) -> Ways:
    """This attention and PyTorch's own, on one head of an example."""
    q, k, v = torch.randn(3, 1, 1, _EXAMPLE, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    return {
        "onednn": partial(onednn_attention, q, k, v),
        "pytorch": lambda: F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2),
    }


def onednn_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of q [B, heads, S, d] to k, v [B, heads, S', d]; returns [B, S, heads * d].

    16 bits are computed in float32, except for probabilities times values in bfloat16 where the processor can multiply
    that. Short sequences, other dtypes, gradients and torch.compile get PyTorch's own attention.
    """
    if _is_left_to_pytorch(q, k, v):
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    batch, heads, length, head_dim = q.shape
    # As many queries at once as keep their scores [rows, S'] in cache, and blocks of nearly equal height.
    rows = max(_FEWEST_ROWS, min(_ROWS, _SCORES // k.shape[2]))
    rows = math.ceil(length / math.ceil(length / rows))
    in_bf16 = q.dtype == torch.bfloat16 and cpu_has("avx512_bf16", if_unknown=False)
    out = q.new_empty(batch, length, heads, head_dim)
    buffer = q.new_empty(rows, k.shape[2], dtype=torch.float32)
    for clip in range(batch):
        for head in range(heads):
            keys, values = k[clip, head].float().contiguous(), v[clip, head]  # [S', d] each
            # oneDNN multiplies with the second matrix transposed: [d, S'].
            transposed = None if in_bf16 else values.t().float().contiguous()
            for queries, into in zip(q[clip, head].split(rows), out[clip, :, head].split(rows), strict=True):
                scores = onednn_linear(queries.float() * head_dim**-0.5, keys, None)  # [rows, S']
                weights = torch.softmax(scores, dim=-1, out=buffer[: len(queries)])
                in_float = transposed is not None
                into.copy_(onednn_linear(weights, transposed, None) if in_float else weights.bfloat16() @ values)
    return out.flatten(2)


def _is_left_to_pytorch(q: Tensor, k: Tensor, v: Tensor) -> bool:
    short = min(q.shape[2], k.shape[2]) < SHORTEST
    return short or q.dtype not in _DTYPES or needs_gradients(q, k, v) or torch.compiler.is_compiling()
