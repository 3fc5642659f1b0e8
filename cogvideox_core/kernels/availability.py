"""Triton kernels for NVIDIA cards: tokens.py for what stands between a block's matrices, maps.py for the VAE's feature
maps, integers.py for products of 8-bit integers.

The modules import Triton, which PyTorch brings along where there is one for the machine; this package does not.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from importlib.util import find_spec
from typing import Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor

_HAS_TRITON = find_spec("triton") is not None
_P = ParamSpec("_P")
_R = TypeVar("_R")


def fits_kernels(*tensors: Tensor) -> bool:
    """Whether Triton's kernels may take these: on a CUDA GPU, and nobody asks a gradient of them.

    torch.compile takes them as they are; left to itself it was 4 % slower, on an H200 at 49 x 480 x 720.
    """
    return (
        tensors[0].is_cuda
        and not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors))
        and _HAS_TRITON
    )


def on_its_device(function: Callable[Concatenate[Tensor, _P], _R]) -> Callable[Concatenate[Tensor, _P], _R]:
    """Have a function launch its kernels on the GPU of its first tensor: Triton takes whichever is current.

    Compiled code sees to that itself; on a CPU kernels are interpreted.
    """

    @wraps(function)
    def launch(x: Tensor, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        if torch.compiler.is_compiling() or not x.is_cuda:
            return function(x, *args, **kwargs)
        with torch.cuda.device(x.device):
            return function(x, *args, **kwargs)

    return launch
