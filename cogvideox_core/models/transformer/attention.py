"""Attention and its backends: every backend is a function of one signature.

A backend takes q, k, v as [B, heads, S, d] and returns [B, S, heads * d]; no mask, softmax scale 1 / sqrt(d). The host
may pass its own to `CogVideoXTransformer3D.forward(attention=...)`; a pipeline takes a row of BACKENDS by its name and
compares a first result with PyTorch's own.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ...kernels import cpu_attention
from ...kernels.availability import in_short
from ...kernels.devices import is_nvidia

logger = logging.getLogger("cogvideox")

AttentionFn = Callable[[Tensor, Tensor, Tensor], Tensor]

AUTO = "auto"
_HOPPER = 9  # major compute capability of NVIDIA's; there cuDNN's kernel is the fastest exact one at 64 channels a head
_CUDNN_FIRST = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]
_PROBE_ROWS, _PROBE_HEADS = 64, 2


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """PyTorch's scaled dot-product attention; [B, heads, S, d] in, [B, S, heads * d] out."""
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def values_only(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Each token attends to itself alone, so its own value is the result: [B, heads, S, d] each -> [B, S, heads * d].

    This is the weakened attention that spatio-temporal guidance (arXiv 2411.18664) leads a sampler away from.
    """
    return v.transpose(1, 2).flatten(2)


def cudnn_first(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """PyTorch's attention with cuDNN's kernel wherever it fits: [B, heads, S, d] each -> [B, S, heads * d]."""
    with sdpa_kernel(_CUDNN_FIRST, set_priority=True):
        return sdpa(q, k, v)


@dataclass(frozen=True)
class Backend:
    """One way to compute attention.

    Attributes:
        load: gives the function, or raises ImportError if its package is missing.
        package: what to install for it; empty where PyTorch brings it.
        kinds: types of device it runs on; empty for all.
        nvidia: whether it runs on NVIDIA's cards alone; PyTorch calls AMD's "cuda", too.
        dtypes: those it takes; empty for all.
        off_by: root mean square of the error, relative to `sdpa`, from which its result counts as wrong.
        exact: whether it differs from `sdpa` by rounding only; "auto" chooses only among those.
        shortest: tokens below which it is `sdpa` itself.
    """

    load: Callable[[], AttentionFn]
    package: str = ""
    kinds: tuple[str, ...] = ()
    nvidia: bool = False
    dtypes: tuple[torch.dtype, ...] = ()
    off_by: float = 0.03
    exact: bool = True
    shortest: int = 0


def _load_onednn() -> AttentionFn:
    if not cpu_attention.is_available():
        raise ImportError(f"this is {torch.__version__} for {platform.machine()}")
    return cpu_attention.onednn_attention


def _load_flash() -> AttentionFn:
    from flash_attn import flash_attn_func  # pyright: ignore[reportMissingImports]

    def flash(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return flash_attn_func(*(part.transpose(1, 2) for part in (q, k, v))).flatten(2)  # takes [B, S, heads, d]

    return flash


def _load_sage() -> AttentionFn:
    from sageattention import sageattn  # pyright: ignore[reportMissingImports]

    def sage(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return sageattn(q, k, v, tensor_layout="HND").transpose(1, 2).flatten(2)

    return sage


_SIXTEEN_BITS = (torch.float16, torch.bfloat16)

BACKENDS: dict[str, Backend] = {
    "sdpa": Backend(lambda: sdpa),
    "onednn": Backend(
        _load_onednn, package="torch with oneDNN for x86-64", kinds=("cpu",), shortest=cpu_attention.SHORTEST
    ),
    "cudnn": Backend(lambda: cudnn_first, kinds=("cuda",), nvidia=True),
    "flash": Backend(_load_flash, package="flash-attn", kinds=("cuda",), dtypes=_SIXTEEN_BITS),
    "sage": Backend(
        _load_sage, package="sageattention", kinds=("cuda",), dtypes=_SIXTEEN_BITS, off_by=0.15, exact=False
    ),
}
"""The backends of the command and of Python; the nodes use the attention that ComfyUI was started with."""


class Attention:
    """A backend in use: q, k, v [B, heads, S, d] -> [B, S, heads * d]. `fall_back` replaces it by PyTorch's own, for
    good and with a sentence in the log."""

    def __init__(
        self, name: str = "sdpa", function: AttentionFn = sdpa, off_by: float = 0.0, shortest: int = 0
    ) -> None:
        self.name = name
        self.function = function
        self.off_by = off_by
        self.shortest = shortest
        self._is_sdpa_anyway = False

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """[B, heads, S, d] each -> [B, S, heads * d]."""
        return self.function(q, k, v)

    @property
    def may_fall_back(self) -> bool:
        return self.function is not sdpa and not self._is_sdpa_anyway

    def fall_back(self, why: str) -> None:
        """Use `sdpa` from now on; `why`: the end of that sentence."""
        logger.warning("The attention backend %s %s; PyTorch's own (sdpa) is taken in its place", self.name, why)
        self.name, self.function = "sdpa", sdpa

    def probe(self, length: int, head_dim: int, dtype: torch.dtype, device: torch.device) -> None:
        """Compare some rows of a first result with `sdpa`'s, and fall back if they are not finite or far off, or if
        there is no result.

        Args: length: of the sequence, S. It is one attention over two heads, some ten thousandth of a run.
        """
        self._is_sdpa_anyway = length < self.shortest
        if not self.may_fall_back:
            return
        generator = torch.Generator().manual_seed(0)
        shape = (3, 1, _PROBE_HEADS, length, head_dim)
        q, k, v = torch.randn(shape, generator=generator).to(device, dtype)
        try:
            found = self(q, k, v)[:, -_PROBE_ROWS:].float()
        except torch.OutOfMemoryError:
            raise  # says nothing about the backend
        except Exception as error:  # a package that was built for other cards raises anything
            self.fall_back(f"does not run here ({in_short(error)})")
            return
        wanted = sdpa(q[:, :, -_PROBE_ROWS:], k, v).float()
        if not found.isfinite().all():
            self.fall_back("gives numbers that are not finite")
            return
        apart = float((found - wanted).square().mean().sqrt() / wanted.square().mean().sqrt())
        if apart > self.off_by:
            self.fall_back(f"is off by {apart:.0%} on a trial of {length} tokens")


def choose_attention(name: str, device: torch.device, dtype: torch.dtype) -> Attention:
    """A backend by its name; "auto" takes oneDNN's products on a CPU (see `cpu_attention.is_default`), cuDNN's kernel
    on NVIDIA's Hopper GPUs, and PyTorch's own choice elsewhere.

    Raises: ValueError for an unknown name, or a device or dtype it does not take; ImportError if its package is not
        installed.
    """
    if name == AUTO:
        name = _best(device, dtype)
    if name not in BACKENDS:
        raise ValueError(f"attention={name!r}; there are {', '.join((AUTO, *BACKENDS))}")
    backend = BACKENDS[name]
    if backend.kinds and device.type not in backend.kinds:
        raise ValueError(
            f"attention={name!r} runs on {' or '.join(backend.kinds)} and this is {device.type}; take 'sdpa' or 'auto'"
        )
    if backend.nvidia and not is_nvidia(device):
        raise ValueError(f"attention={name!r} runs on NVIDIA's cards and this is AMD's; take 'sdpa' or 'auto'")
    if backend.dtypes and dtype not in backend.dtypes:
        raise ValueError(
            f"attention={name!r} in {_dtype_name(dtype)}; it takes {' or '.join(map(_dtype_name, backend.dtypes))}: "
            "choose such a dtype, or 'sdpa'"
        )
    try:
        function = backend.load()
    except ImportError as error:
        raise ImportError(
            f"attention={name!r} needs the package {backend.package} ({error}); install it, or take 'sdpa' or 'auto'"
        ) from error
    return Attention(name, function, backend.off_by, backend.shortest)


def _best(device: torch.device, dtype: torch.dtype) -> str:
    if device.type == "cpu" and cpu_attention.is_default(dtype):
        return "onednn"
    return "cudnn" if _prefers_cudnn(device) else "sdpa"


def _prefers_cudnn(device: torch.device) -> bool:
    return (
        is_nvidia(device)
        and torch.cuda.get_device_capability(device)[0] == _HOPPER
        and torch.backends.cudnn.is_available()
    )


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
