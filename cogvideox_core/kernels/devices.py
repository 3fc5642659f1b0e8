"""What devices there are, and what each may be asked for.

PyTorch calls AMD's cards "cuda" too, so what was made for NVIDIA's asks `is_nvidia`. Copies that go on while a device
computes are for "cuda" alone: elsewhere they may end before the numbers are there.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

_AMPERE = (8, 0)  # compute capability of the first NVIDIA cards with arithmetic for bfloat16
_NOT_TRIED = ("cpu", "cuda", "meta")  # kinds of which it is known what they compute in
_VEGA, _RDNA = 9, 10  # majors of AMD's architectures; the first two generations of RDNA are 10
_VEGA_WITHOUT_BFLOAT16 = ("gfx900", "gfx906")


def default_device() -> torch.device:
    """The accelerator that this PyTorch was built for (CUDA, ROCm, Apple's, Intel's, ...), else the CPU."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return accelerator or torch.device("cpu")


def accelerators() -> list[torch.device]:
    """All devices of the kind of `default_device`, unless that is the CPU."""
    default = default_device()
    return [torch.device(default.type, index) for index in range(_count(default)) if default.type != "cpu"]


def named_device(name: str | torch.device, argument: str = "device") -> torch.device:
    """The device of a name: "cpu", "cuda:1", "xpu", or whatever PyTorch has here.

    Args: argument: what messages call it.
    Raises: ValueError if there is no such device.
    """
    usable = " or ".join(sorted({"cpu", default_device().type}))
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"{argument}={name}; there is no such kind; use {usable}") from None
    if (device.index or 0) >= _count(device):
        raise ValueError(f"{argument}={name}; this machine, or this build of PyTorch, has no such device; use {usable}")
    return device


def is_nvidia(device: torch.device) -> bool:
    """Whether it is a card of NVIDIA's."""
    return device.type == "cuda" and torch.version.hip is None


def copies_aside(device: torch.device) -> bool:
    """Whether copies between main memory and a device may go on while both compute."""
    return device.type == "cuda"


def dtype_fault(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why a device should not compute in a dtype, in words; None where it may.

    bfloat16 that a card only emulates counts as a fault: PyTorch then takes the plain attention, which holds the whole
    matrix of weights in memory.
    """
    reason = _why_no_bfloat16(device) if dtype == torch.bfloat16 else None
    if reason is None and device.type not in _NOT_TRIED and not _computes(device, dtype):
        reason = "PyTorch has no products in it there"
    return reason


def free_bytes(device: torch.device) -> int | None:
    """Free bytes of an accelerator, with PyTorch's own reserve; None where it does not say."""
    module = _module(device)
    try:
        free, _ = module.mem_get_info(device)
    except (AttributeError, RuntimeError):  # Apple's has no such function, and some of Intel's cards no answer
        return None
    return free + module.memory_reserved(device) - module.memory_allocated(device)


def give_back_memory(device: torch.device) -> None:
    """Return the memory that PyTorch holds in reserve on a device."""
    empty: Any = getattr(_module(device), "empty_cache", None)
    if empty is not None:
        empty()


def _module(device: torch.device) -> Any:
    """`torch.cuda`, `torch.xpu`, ...; None for what has none, such as the CPU."""
    return None if device.type == "cpu" else getattr(torch, device.type, None)


def _count(device: torch.device) -> int:
    """Devices of this kind."""
    if device.type == "cpu":
        return 1
    count: Any = getattr(_module(device), "device_count", None)
    return 0 if count is None else count()


def _why_no_bfloat16(device: torch.device) -> str | None:
    if is_nvidia(device):
        capability = torch.cuda.get_device_capability(device)
        return (
            None if capability >= _AMPERE else f"its compute capability is {capability[0]}.{capability[1]}, below 8.0"
        )
    if device.type == "cuda":
        return None if _amd_has_bfloat16(device) else "its architecture is older than RDNA 3 and CDNA"
    supported: Any = getattr(_module(device), "is_bf16_supported", None)
    return None if supported is None or supported() else "it has no arithmetic for it"


def _amd_has_bfloat16(device: torch.device) -> bool:
    """Whether a card of AMD's computes in bfloat16: PyTorch itself says so of all."""
    capability = torch.cuda.get_device_capability(device)
    if capability == (_VEGA, 0):  # Vega and CDNA 1 and 2
        name = torch.cuda.get_device_properties(device).gcnArchName
        return not name.startswith(_VEGA_WITHOUT_BFLOAT16)
    return capability[0] != _RDNA


@cache
def _computes(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a product in this dtype gives the right numbers."""
    try:
        x = torch.ones(16, 16, device=device, dtype=dtype)
        return bool((x @ x == 16).all())
    except (RuntimeError, TypeError):
        return False
