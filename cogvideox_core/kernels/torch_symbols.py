"""The names of PyTorch the core uses that are not public: they may change or go with any release.

`SYMBOLS` lists all of them; tests/core/kernels/test_torch_symbols.py names each that is gone, and finds uses of others.

The functions below call those that compute. Each is tried once for a device and dtype, against public operations that
give the same numbers; where it is missing, refuses its arguments or gives other numbers, the public ones take its place
and a sentence in the log says so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterable, Iterator
from functools import cache, partial
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

logger = logging.getLogger("cogvideox")

SYMBOLS: dict[str, str] = {
    # Computing, through the functions of this module only.
    "torch.ops.mkldnn._linear_pointwise": "linear layers, their GELU and attention's products by oneDNN on a CPU",
    "torch.ops.aten._addmm_activation": "a linear layer's GELU while the result is in cuBLAS's registers",
    "torch.mkldnn_convolution": "convolutions by oneDNN on a CPU where PyTorch would not ask it",
    "torch.batch_norm_update_stats": "mean and variance of channels in one pass",
    "torch._int_mm": "products of 8-bit integers",
    "torch.cpu._is_vnni_supported": "whether a CPU multiplies 8-bit integers; unknown counts as no",
    "torch.cpu._is_avx512_bf16_supported": "whether a CPU multiplies bfloat16; unknown counts as no",
    "torch.cpu._is_amx_tile_supported": "whether PyTorch's own attention is the faster one; unknown counts as yes",
    "torch.compiler.assume_constant_result._dynamo_marked_constant": "see `constant_when_compiled`",
    # Modules: weights put into them, and hooks that must not be passed over.
    "torch.nn.Module._parameters": "weights put in place one by one (weights/load.py, pipeline/offload.py)",
    "torch.nn.Module._buffers": "as _parameters",
    "torch.nn.Module._forward_hooks": "a layer with hooks is called, its weights are not used directly",
    # Tensors that stay packed (weights/packed_weight.py).
    "torch.Tensor._make_wrapper_subclass": "a tensor subclass without numbers of its own",
    "torch.utils._pytree.tree_map_only": "unpacking the arguments of an operation",
    "torch.ops.aten.add.Tensor._schema": "which arguments an operation writes to",
    "torch.ops.aten._to_copy": "moving and casting a packed tensor",
}


# What has its attributes only once it is called.
_CALLED: dict[Any, Callable[[], Any]] = {
    nn.Module: nn.Module,
    torch.compiler.assume_constant_result: lambda: torch.compiler.assume_constant_result(lambda: None),
}
_Function = TypeVar("_Function", bound=Callable[..., Any])


def find(name: str) -> Any:
    """What a name of `SYMBOLS` refers to. Raises: AttributeError if this PyTorch has no such name."""
    found: Any = torch
    for part in name.split(".")[1:]:
        owner = _CALLED[found]() if isinstance(found, Hashable) and found in _CALLED else found
        found = getattr(owner, part)
    return found


def constant_when_compiled(function: _Function) -> _Function:
    """Have torch.compile call a function while it traces, and take its answer for a constant.

    This is `torch.compiler.assume_constant_result` without its import of the compiler, which takes seconds, and fails
    where Triton is damaged.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def cpu_has(feature: str, *, if_unknown: bool) -> bool:
    """Whether the processor has a feature: "vnni", "avx512_bf16", "amx_tile".

    Args: if_unknown: the answer where this PyTorch cannot tell.
    """
    return getattr(torch.cpu, f"_is_{feature}_supported", lambda: if_unknown)()


# --- Functions that compute -------------------------------------------------------------------------------------------


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None, *, gelu: bool = False) -> Tensor:
    """x [..., K] times weight [N, K] transposed plus bias [N], and the tanh approximation of GELU of it -> [..., N].

    On a CPU; not to be traced by torch.compile, whose CPU backend takes this operation with constant weights only.
    """
    return _call("onednn_gelu" if gelu else "onednn_linear", x, weight, bias)


def has_onednn_linear(dtype: torch.dtype = torch.float32) -> bool:
    """Whether `onednn_linear` is oneDNN's operation here, on the CPU, and not PyTorch's public one."""
    return works("onednn_linear", torch.device("cpu"), dtype)


def addmm_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The tanh approximation of GELU of x [M, K] times weight [N, K] transposed plus bias [N] -> [M, N]."""
    return _call("addmm_gelu", x, weight, bias)


def onednn_conv3d(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A convolution of x [B, C, T, H, W] with weight [C', C, t, h, w], padded by a column on each side, on a CPU.

    Returns: [B, C', T - t + 1, H - h + 1, W - w + 3].
    """
    return _call("onednn_conv3d", x, weight, bias)


def channel_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance [C] of x [B, C, ...], in its dtype; on a CPU or NVIDIA GPU in one pass over memory."""
    return _call("channel_moments", x) if x.device.type in ("cpu", "cuda") else _public_moments(x)


def int_matmul(a: Tensor, b: Tensor) -> Tensor:
    """The product of a [M, K] and b [K, N], both int8 -> [M, N], int32 (float32 where PyTorch has no such product)."""
    return _call("int_matmul", a, b)


# --- Trials -----------------------------------------------------------------------------------------------------------


class _Operation(NamedTuple):
    """A private operation, the public ones that give the same numbers, and arguments to try them with."""

    symbol: str
    private: Callable[..., Any]
    public: Callable[..., Any]
    examples: Callable[[Callable[..., Tensor]], Iterable[tuple[Any, ...]]]


def _call(name: str, x: Tensor, *others: Any) -> Any:
    operation = _OPERATIONS[name]
    chosen = operation.private if works(name, x.device, x.dtype) else operation.public
    return chosen(x, *others)


@constant_when_compiled
def works(name: str, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the private operation behind a function of this module gives the right numbers on a device."""
    return _tried(name, device, dtype)


@cache
@torch.inference_mode(False)
@torch.no_grad()
def _tried(name: str, device: torch.device, dtype: torch.dtype) -> bool:
    operation = _OPERATIONS[name]
    try:
        for arguments in operation.examples(partial(_numbers, device=device, dtype=dtype)):
            error = _difference(operation.private(*arguments), operation.public(*arguments))
            if not error < (5e-3 if dtype == torch.float32 else 0.05):  # wrong, not merely rounded otherwise
                raise ArithmeticError(f"it is off by {error:.2g}")
    except (ArithmeticError, AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, torch.cuda.OutOfMemoryError):
            raise
        logger.info(
            "PyTorch %s has no usable %s for %s on %s (%s); its public operations are taken, which are slower",
            torch.__version__,
            operation.symbol,
            dtype,
            device,
            str(error).partition("\n")[0],
        )
        return False
    return True


def _numbers(*shape: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Some numbers from -1 to 1, from -127 to 127 for integers; no random ones, whose generator belongs to users."""
    count = torch.Size(shape).numel()
    numbers = torch.arange(count, dtype=torch.float32, device=device).mul_(7.0).sin_().view(shape)
    return numbers.to(dtype) if dtype.is_floating_point else numbers.mul_(127).to(dtype)


def _difference(found: Any, wanted: Any) -> float:
    """The largest difference of tensors or pairs of them, relative to the largest number."""
    pairs = [(found, wanted)] if isinstance(found, Tensor) else list(zip(found, wanted, strict=True))
    return max(float((a.float() - b.float()).abs().max() / b.float().abs().max()) for a, b in pairs)


Numbers = Callable[..., Tensor]


def _linear_examples(numbers: Numbers) -> Iterator[tuple[Any, ...]]:
    x, weight = numbers(2, 3, 16), numbers(8, 16)
    yield x, weight, numbers(8)
    yield x.transpose(0, 1), weight, None


def _conv_examples(numbers: Numbers) -> Iterator[tuple[Any, ...]]:
    x = numbers(1, 4, 3, 4, 5).contiguous(memory_format=torch.channels_last_3d)
    yield x, numbers(2, 4, 3, 3, 3), numbers(2)
    yield x[:, :, :2], numbers(2, 4, 1, 1, 3), None


def _moments_examples(numbers: Numbers) -> Iterator[tuple[Any, ...]]:
    yield (numbers(2, 4, 3, 5, 5),)
    yield (numbers(6, 8).T[None, :, :, None],)


def _public_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(x, weight, bias)


def _public_gelu(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.gelu(F.linear(x, weight, bias), approximate="tanh")


def _public_conv3d(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.conv3d(x, weight, bias, padding=(0, 0, 1))


def _public_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    variance, mean = torch.var_mean(x, dim=[dim for dim in range(x.ndim) if dim != 1], correction=0)
    return mean, variance


def _public_int_matmul(a: Tensor, b: Tensor) -> Tensor:
    return a.float() @ b.float()  # devices without 8-bit products have none of 32-bit integers either


_OPERATIONS = {
    "onednn_linear": _Operation(
        "torch.ops.mkldnn._linear_pointwise",
        lambda x, weight, bias: torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], ""),
        _public_linear,
        _linear_examples,
    ),
    "onednn_gelu": _Operation(
        "torch.ops.mkldnn._linear_pointwise",
        lambda x, weight, bias: torch.ops.mkldnn._linear_pointwise(x, weight, bias, "gelu", [], "tanh"),
        _public_gelu,
        _linear_examples,
    ),
    "addmm_gelu": _Operation(
        "torch.ops.aten._addmm_activation",
        lambda x, weight, bias: torch.ops.aten._addmm_activation(bias, x, weight.t(), use_gelu=True),
        _public_gelu,
        lambda numbers: [(numbers(32, 16), numbers(8, 16), numbers(8))],
    ),
    "onednn_conv3d": _Operation(
        "torch.mkldnn_convolution",
        lambda x, weight, bias: torch.mkldnn_convolution(x, weight, bias, (0, 0, 1), (1, 1, 1), (1, 1, 1), 1),
        _public_conv3d,
        _conv_examples,
    ),
    "channel_moments": _Operation(
        "torch.batch_norm_update_stats",
        lambda x: torch.batch_norm_update_stats(x, None, None, 0.0),
        _public_moments,
        _moments_examples,
    ),
    "int_matmul": _Operation(
        "torch._int_mm",
        lambda a, b: torch._int_mm(a, b),  # pyright: ignore[reportPrivateImportUsage]
        _public_int_matmul,
        lambda numbers: [(numbers(32, 16), numbers(8, 16).t())],
    ),
}
