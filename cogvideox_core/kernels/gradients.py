"""Whether autograd takes part: kernels have no backward pass, so they are for inference only."""

from __future__ import annotations

import torch
from torch import Tensor


def needs_gradients(*tensors: Tensor) -> bool:
    """Whether what is computed from tensors of any shape [...] takes part in a backward pass."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
