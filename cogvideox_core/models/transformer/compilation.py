"""torch.compile, block by block: the blocks are alike, so one compilation serves them all."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...kernels.availability import available, in_short
from .model import CogVideoXTransformer3D


def compile_blocks(transformer: CogVideoXTransformer3D, **options: Any) -> None:
    """Have the blocks compiled when they first run; again when sizes, a LoRA or an attention backend change.

    Args: options: of torch.compile.
    """
    for block in transformer.transformer_blocks:
        block.compile(**options)


def check_compiler(device: torch.device) -> None:
    """Try torch.compile on a device, with something small.

    Raises: ValueError if it does not work there: on a CPU it needs a C++ compiler, on a GPU Triton.
    """
    available(device)  # asked before anything is traced
    try:
        torch.compile(_twice_and_one)(torch.ones(8, device=device))
    except (RuntimeError, ImportError, OSError) as error:
        cause = getattr(error, "inner_exception", error)
        reason = in_short(cause)
        raise ValueError(
            f"torch.compile does not work here ({reason}); it needs a C++ compiler for a CPU and Triton for a GPU: "
            "install that, or do without compile"
        ) from error


def _twice_and_one(x: Tensor) -> Tensor:
    """[...] -> [...]."""
    return 2 * x + 1
