"""Giving models their weights: a model on the meta device takes the mapped tensors themselves, for inference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..kernels.devices import copies_aside
from .dtypes import weights_dtype
from .errors import CheckpointError, listed
from .quantize import Method, quantize_model, will_quantize
from .upload import Uploads

Model = TypeVar("Model", bound=nn.Module)


def fill(
    model: Model,
    tensors: Mapping[str, Tensor],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    source: str | Path = "the checkpoint",
    quantize: Method = "none",
) -> Model:
    """Give a model its weights, for inference. Tensors that have the dtype and are on the device are used as they are.

    Args:
        model: built on the meta device; its dtype does not matter.
        tensors: [...] each, of the keys and shapes of the model.
        dtype: of the weights; None keeps the tensors' own.
        source: names the weights in messages.
        quantize: the method for large matrices, each of which is quantized before the next is read.
    Raises: CheckpointError if keys or shapes do not fit the model.
    """
    check_fit(model, tensors, source)
    dtype = weights_dtype(tensors, dtype, source)
    # One tensor at a time: there is never a second copy of more than one. What will be quantized is left as it is.
    move = _mover(torch.device(device))
    moved = {
        key: tensor if will_quantize(key, tensor, quantize) else move(tensor, dtype) for key, tensor in tensors.items()
    }
    _assign(model, moved)
    quantize_model(model, quantize, dtype=dtype, device=device)
    return model.eval()


def fill_host_module(
    module: Model,
    tensors: Mapping[str, Tensor],
    *,
    like: nn.Module,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    source: str | Path = "the checkpoint",
) -> Model:
    """Give a module of a host's own layers its weights, by its `load_state_dict`. Otherwise as `fill`.

    Args:
        tensors: [...] each, of the keys and shapes of `like`.
        like: a module with the keys and shapes to expect; the host's own layers may have no weights yet.
    Raises: CheckpointError if keys or shapes do not fit `like`.
    """
    check_fit(like, tensors, source)
    dtype = weights_dtype(tensors, dtype, source)
    move = _mover(torch.device(device))
    moved = {key: move(tensor, dtype) for key, tensor in tensors.items()}
    module.requires_grad_(False)
    module.load_state_dict(moved, assign=True)
    return module.eval()


def _mover(device: torch.device) -> Callable[[Tensor, torch.dtype | None], Tensor]:
    """A function that returns a tensor on the device, in a dtype (None: its own)."""
    if copies_aside(device):
        return Uploads(device).copy
    return lambda tensor, dtype: tensor.to(device=device, dtype=dtype)


def _assign(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """The same as load_state_dict(assign=True) for tensors that fit, in a tenth of its time."""
    modules = dict(model.named_modules(remove_duplicate=False))
    for key, tensor in tensors.items():
        owner, _, name = key.rpartition(".")
        module = modules[owner]
        is_parameter = isinstance(getattr(module, name), nn.Parameter)
        setattr(module, name, nn.Parameter(tensor, requires_grad=False) if is_parameter else tensor)


def check_fit(model: nn.Module, tensors: Mapping[str, Tensor], source: str | Path) -> None:
    """Compare the keys and shapes of `tensors`, [...] each, with a model's.

    Raises: CheckpointError if they are not the same.
    """
    wanted = {key: tensor.shape for key, tensor in model.state_dict().items()}
    found = {key: tensor.shape for key, tensor in tensors.items()}
    differing = [key for key, shape in wanted.items() if key in found and found[key] != shape]
    faults = {
        "missing": [key for key in wanted if key not in found],
        "unexpected": [key for key in found if key not in wanted],
        "of another shape": [f"{key} {list(found[key])} instead of {list(wanted[key])}" for key in differing],
    }
    counts = [_counted(keys, fault) for fault, keys in faults.items() if keys]
    if counts:
        raise CheckpointError(
            f"{source} does not fit the model its shapes announce: {', '.join(counts)}; download it again, or "
            "give the weights of a CogVideoX model"
        )


def _counted(keys: list[str], fault: str) -> str:
    """`2 keys missing (a, b)`."""
    return f"{len(keys)} {'keys' if len(keys) > 1 else 'key'} {fault} ({listed(keys)})"
