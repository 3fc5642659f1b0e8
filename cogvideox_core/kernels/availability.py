"""Whether the Triton kernels run on a device: tried once per device and process, with PyTorch's operations otherwise.

The kernels are in `triton_tokens.py` (between the matrices of a transformer block), `triton_maps.py` (the VAE's feature
maps) and `triton_int8.py` (products of 8-bit integers). Those modules import Triton, which PyTorch brings along on most
systems; this module imports it only to try it.

`COGVIDEOX_KERNELS=off` in the environment switches all of them off.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import cache, wraps
from importlib.util import find_spec
from typing import Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor

from .choices import OFF
from .gradients import needs_gradients
from .torch_symbols import constant_when_compiled

logger = logging.getLogger("cogvideox")

SWITCH = "COGVIDEOX_KERNELS"
"""The environment variable that switches the kernels off; read when a device is first asked about."""
_ON = ("", "on", "1", "yes", "true")
_VOLTA = (7, 0)  # compute capability of the first NVIDIA cards that Triton compiles for

_P = ParamSpec("_P")
_R = TypeVar("_R")


@constant_when_compiled
def available(device: torch.device) -> bool:
    """Whether the Triton kernels run on a device. The first question compiles and runs a small one, in about a second;
    later ones look up its answer. Where they do not run, a sentence in the log says why."""
    return device.type == "cuda" and _runs(device)


def uses_triton(*tensors: Tensor) -> bool:
    """Whether a Triton kernel computes with tensors [...]: on a GPU where Triton runs, and in inference only.

    torch.compile takes the kernels as they are; left to itself it was 4 % slower, on an H200 at 49 x 480 x 720.
    """
    return tensors[0].is_cuda and not needs_gradients(*tensors) and available(tensors[0].device)


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


@cache
def _runs(device: torch.device) -> bool:
    """The answer of `available` for a GPU, with its sentence in the log."""
    reason = reason_against(device)
    if reason is None:
        error = trial_error(device)
        if error is None:
            return True
        logger.warning(
            "Triton does not work on %s (%s), so PyTorch's own operations compute there, more slowly; %s=off switches "
            "the trial and this message off",
            device,
            error,
            SWITCH,
        )
        return False
    logger.info("The Triton kernels are not used on %s: %s", device, reason)
    return False


def reason_against(device: torch.device) -> str | None:
    """Why the kernels need not be tried on a device, in words; None where they may run."""
    if _is_switched_off():
        return f"{SWITCH}={os.environ[SWITCH]}"
    if find_spec("triton") is None:
        return "Triton is not installed"
    return card_reason(torch.cuda.get_device_capability(device), torch.version.hip) if device.type == "cuda" else None


def card_reason(capability: tuple[int, int], hip: str | None) -> str | None:
    """Why the kernels are not tried on a card, in words; None where they may run.

    Args: capability: its compute capability. hip: the version of AMD's platform, where PyTorch was built for it.
    """
    if hip is not None:
        return "they are written for NVIDIA cards"
    if capability < _VOLTA:
        return f"its compute capability is {capability[0]}.{capability[1]}, and Triton needs {_VOLTA[0]}.{_VOLTA[1]}"
    return None


def trial_error(device: torch.device) -> str | None:
    """Compile a small kernel on a device, run it and check its result. Returns: what went wrong, or None.

    The kernel uses what the others use of Triton's language, in every dtype they take.
    """
    try:
        from .triton_trial import check

        check(device)
    except torch.cuda.OutOfMemoryError:
        raise  # says nothing about Triton
    except Exception as error:  # a Triton that does not fit its system raises anything: a missing compiler or library
        return in_short(error)
    return None


def in_short(error: BaseException) -> str:
    """What kind of error it is, and the first line of what it says."""
    return f"{type(error).__name__}: {str(error).strip()}".partition("\n")[0]


def _is_switched_off() -> bool:
    setting = os.environ.get(SWITCH, "").strip().lower()
    if setting not in OFF + _ON:
        logger.warning("%s=%s; it takes on or off: the kernels stay on", SWITCH, setting)
    return setting in OFF
