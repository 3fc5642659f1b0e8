"""The one attention seam: every backend is a function of this signature.

A backend takes q, k, v as [B, heads, S, d] and returns [B, S, heads * d]; no mask, softmax scale 1 / sqrt(d). The host
may hand its own to `CogVideoXTransformer3D.forward(attention=...)`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

AttentionFn = Callable[[Tensor, Tensor, Tensor], Tensor]


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """PyTorch's scaled dot-product attention; [B, heads, S, d] in, [B, S, heads * d] out."""
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
