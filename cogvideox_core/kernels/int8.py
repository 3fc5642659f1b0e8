"""Products of 8-bit integers: activations are rounded with a scale for each token, weights have one for each row.

y = x W' + b becomes s_token * s_row * (x8 W8') + b with an exact integer sum inside; ComfyUI's `int8_tensorwise` layers
compute the same. What is rounded besides the weights are the activations, to 1/127 of the largest of their token.
"""

from types import ModuleType

import torch
from torch import Tensor
from torch.nn import functional as F

from .availability import available
from .devices import is_nvidia
from .gradients import needs_gradients
from .torch_symbols import constant_when_compiled, cpu_has, int_matmul, works

_ROWS = 1024  # tokens at a time on a CPU, so that what is between two operations stays in cache
_LEAST = 1e-30  # a scale for a token of zeros
_TURING, _AMPERE = (7, 5), (8, 0)  # the first NVIDIA cards that multiply 8-bit integers, and that Triton does it on


def can_multiply_int8(x: Tensor, weight: Tensor) -> bool:
    """Whether x [..., K] times weight [N, K] is faster in 8 bits on their device, and needs no gradients.

    On a CPU that takes AVX512-VNNI, or half the sums would overflow or be slow; NVIDIA's library takes more than 16
    rows and multiples of 8.
    """
    if x.device != weight.device or needs_gradients(x):
        return False
    rows, columns = weight.shape
    fits = x.device.type == "cpu" or (x.numel() // columns > 16 and rows % 8 == columns % 8 == 0)
    return fits and multiplies_int8(x.device)


@constant_when_compiled
def multiplies_int8(device: torch.device) -> bool:
    """Whether a device multiplies 8-bit integers faster than it multiplies what they are decoded to, and does it right.

    AMD's cards and those of others are not tried: the products here were made for NVIDIA's.
    """
    if device.type == "cpu":
        return torch.backends.mkldnn.is_available() and cpu_has("vnni", if_unknown=False)
    if not is_nvidia(device) or torch.cuda.get_device_capability(device) < _TURING:
        return False
    return works("int_matmul", device, torch.int8) or _kernels(device) is not None


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
    if (kernels := _kernels(x.device)) is not None:
        return kernels.int8_linear(rows, weight, scale, bias, gelu=gelu).reshape(*x.shape[:-1], -1)
    out = rows.new_empty(len(rows), len(weight))
    step = _ROWS if x.device.type == "cpu" else max(1, len(rows))
    by_column = scale.reshape(1, -1)
    for start in range(0, len(rows), step):
        numbers, by_row = round_rows(rows[start : start + step])
        y = int_matmul(numbers, weight.t()).float().mul_(by_row).mul_(by_column)
        if bias is not None:
            y.add_(bias)
        out[start : start + step] = F.gelu(y, approximate="tanh") if gelu else y
    return out.reshape(*x.shape[:-1], -1)


@int8_linear.register_fake
def _(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, *, gelu: bool = False) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


def round_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [M, K] as int8 [M, K], and the scale of each row [M, 1] in float32."""
    x = x.float()
    scale = x.abs().amax(dim=1, keepdim=True).clamp_min_(_LEAST) / x.new_tensor(127.0)
    return (x / scale).round_().to(torch.int8), scale


def _kernels(device: torch.device) -> ModuleType | None:
    """triton_int8.py where Triton runs and multiplies 8-bit integers; else PyTorch's operations do, more slowly."""
    if not available(device) or torch.cuda.get_device_capability(device) < _AMPERE:
        return None
    from . import triton_int8

    return triton_int8
