"""Products of 8-bit integers: activations are rounded with a scale for each token, weights have one for each row.

y = x W' + b becomes s_token * s_row * (x8 W8') + b with an exact integer sum inside; ComfyUI's `int8_tensorwise` layers
compute the same. What is rounded besides the weights are the activations, to 1/127 of the largest of their token.
"""

from __future__ import annotations

import logging
from functools import cache
from types import ModuleType

import torch
from torch import Tensor
from torch.nn import functional as F

logger = logging.getLogger("cogvideox")

_int_mm = torch._int_mm  # pyright: ignore[reportPrivateImportUsage]
_ROWS = 1024  # tokens at a time on a CPU, so that little memory lies between two steps
_LEAST = 1e-30  # a scale for a token of zeros
_TURING, _AMPERE = (7, 5), (8, 0)  # the first NVIDIA cards that multiply 8-bit integers, and that Triton does it on


def multiplies_int8(x: Tensor, weight: Tensor) -> bool:
    """Whether this device multiplies [..., K] with [N, K] in 8 bits faster than in more, and nobody asks a gradient.

    On a CPU that takes AVX512-VNNI, or half the additions would overflow or be slow; NVIDIA's library takes more than
    16 rows and multiples of 8.
    """
    if x.device != weight.device or (torch.is_grad_enabled() and x.requires_grad):
        return False
    rows, columns = weight.shape
    fits = x.device.type == "cpu" or (x.numel() // columns > 16 and rows % 8 == columns % 8 == 0)
    return fits and _device_multiplies(x.device)


@torch.compiler.assume_constant_result
def _device_multiplies(device: torch.device) -> bool:
    if device.type == "cpu":
        return torch.backends.mkldnn.is_available() and _has_vnni()
    if device.type == "cuda" and torch.version.hip is None:
        return torch.cuda.get_device_capability(device) >= _TURING
    return False


def _has_vnni() -> bool:
    """Whether the CPU multiplies 8-bit integers; an older PyTorch, which cannot tell, counts as no."""
    return getattr(torch.cpu, "_is_vnni_supported", lambda: False)()


@torch.library.custom_op("cogvideox::int8_linear", mutates_args=())
def int8_linear(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, *, gelu: bool = False) -> Tensor:
    """A linear layer, and the tanh approximation of GELU of its result if asked; one operation to torch.compile.

    Args:
        x: [..., K], floating point.
        weight, scale: [N, K] in int8, and [N, 1] in float32.
        bias: [N] or None.
    Returns: [..., N] in the dtype of x.
    """
    rows = x.reshape(-1, x.shape[-1])
    if x.is_cuda and (kernels := _kernels(x.device)) is not None:
        return kernels.int8_linear(rows, weight, scale, bias, gelu=gelu).reshape(*x.shape[:-1], -1)
    out = rows.new_empty(len(rows), len(weight))
    step = _ROWS if x.device.type == "cpu" else max(1, len(rows))
    by_column = scale.reshape(1, -1)
    for start in range(0, len(rows), step):
        numbers, by_row = round_rows(rows[start : start + step])
        y = _int_mm(numbers, weight.t()).float().mul_(by_row).mul_(by_column)
        if bias is not None:
            y.add_(bias)
        out[start : start + step] = F.gelu(y, approximate="tanh") if gelu else y
    return out.reshape(*x.shape[:-1], -1)


@int8_linear.register_fake
def _(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, *, gelu: bool = False) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


def round_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """[M, K] as int8, and the scale of each row [M, 1] in float32."""
    x = x.float()
    scale = x.abs().amax(dim=1, keepdim=True).clamp_min_(_LEAST) / x.new_tensor(127.0)
    return (x / scale).round_().to(torch.int8), scale


@cache
def _kernels(device: torch.device) -> ModuleType | None:
    """kernels/integers.py if Triton is there and makes them; else PyTorch's operations do, more slowly."""
    if torch.cuda.get_device_capability(device) < _AMPERE:
        return None
    try:
        from . import triton_int8 as integers

        integers.round_rows(torch.ones(1, 16, device=device))
    except (ImportError, OSError, RuntimeError) as error:  # no Triton for this system, or no compiler for it
        logger.info("INT8 without Triton, which would make it faster: %s", error)
        return None
    return integers
