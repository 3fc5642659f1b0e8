"""Weights into models. The model is built without memory and then given the mapped tensors themselves.

A host with loading of its own uses the first half: `read_transformer` and `read_vae`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from ..models.config import TransformerConfig, VAEConfig
from ..models.transformer.model import CogVideoXTransformer3D
from ..models.vae.autoencoder import AutoencoderCausal3D
from ..models.variants import Variant
from . import empty_layers as layers
from .config_json import parse_json
from .detect import find_variant, transformer_config, vae_config
from .diffusers_folder import component_path, read_config
from .dtypes import named_dtype, weights_dtype
from .entries import Weights
from .errors import CheckpointError, listed
from .files import open_weights
from .int8 import Method, becomes_small, check_method, check_plain, quantize_model
from .key_names import in_own_names
from .packed_entries import decoded
from .recognize import Component
from .upload import Uploads

Model = TypeVar("Model", bound=nn.Module)

_V_PREDICTION_MARKER = "v_pred"  # an empty tensor that ComfyUI's ModelSave adds to v-prediction models


class TransformerWeights(NamedTuple):
    """A transformer on disk: its configuration, its row of VARIANTS and its mapped tensors by diffusers key."""

    config: TransformerConfig
    variant: Variant
    state_dict: dict[str, Tensor]


class VAEWeights(NamedTuple):
    """A VAE on disk: its configuration and its mapped tensors by diffusers key."""

    config: VAEConfig
    state_dict: dict[str, Tensor]


def read_transformer(path: str | Path) -> TransformerWeights:
    """Open a transformer without building it; nothing is copied.

    Args:
        path: a whole CogVideoX folder, its transformer folder, or a weight file.
    Raises: CheckpointError if there is no transformer of a known build.
    """
    weights, declared = _open(path, "transformer")
    config = transformer_config(weights.shapes, declared, source=weights.path)
    return TransformerWeights(config, find_variant(config, source=weights.path), dict(weights))


def read_vae(path: str | Path) -> VAEWeights:
    """Open a VAE without building it; arguments and errors as for `read_transformer`."""
    weights, declared = _open(path, "vae")
    return VAEWeights(vae_config(weights.shapes, declared, source=weights.path), dict(weights))


def load_transformer(
    path: str | Path,
    *,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str = "cpu",
    operations: Any = layers,
    quantize: Method = "none",
) -> CogVideoXTransformer3D:
    """The transformer at `path`, ready to run; `.config` and `.variant` say what it is.

    Args:
        path: a whole CogVideoX folder, its transformer folder, or a weight file.
        dtype: of the weights; None keeps the file's, mapped and not copied (on the CPU).
        device: where the weights go.
        operations: namespace with Linear, Conv2d and LayerNorm; a host may bring its own.
        quantize: "int8" or "llm.int8" for the large matrices in 8 bits, as `weights.int8` tells.
    Raises: CheckpointError if the weights do not make a known CogVideoX transformer; ValueError for an odd dtype or
        method, or a method where all matrices are in few bits already; ImportError if bitsandbytes is needed and
        missing.
    """
    check_method(quantize)
    dtype = None if dtype is None else named_dtype(dtype)
    return build_transformer(
        read_transformer(path), source=path, dtype=dtype, device=device, operations=operations, quantize=quantize
    )


def build_transformer(
    weights: TransformerWeights,
    *,
    source: str | Path,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str = "cpu",
    operations: Any = layers,
    quantize: Method = "none",
) -> CogVideoXTransformer3D:
    """The transformer of weights that are open; `source` names them in messages, the rest is as for
    `load_transformer`."""
    check_method(quantize)
    dtype = None if dtype is None else named_dtype(dtype)
    check_plain(weights.state_dict, quantize, source)
    model = CogVideoXTransformer3D(weights.config, device="meta", operations=operations, variant=weights.variant)
    return fill(model, weights.state_dict, dtype=dtype, device=device, source=source, quantize=quantize)


def load_vae(
    path: str | Path, *, dtype: torch.dtype | str | None = None, device: torch.device | str = "cpu"
) -> AutoencoderCausal3D:
    """The VAE at `path`, ready to run; arguments and errors as for `load_transformer`."""
    dtype = None if dtype is None else named_dtype(dtype)
    return build_vae(read_vae(path), source=path, dtype=dtype, device=device)


def build_vae(
    weights: VAEWeights,
    *,
    source: str | Path,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str = "cpu",
) -> AutoencoderCausal3D:
    """The VAE of weights that are open; arguments and errors as for `build_transformer`."""
    dtype = None if dtype is None else named_dtype(dtype)
    model = AutoencoderCausal3D(weights.config, device="meta", operations=layers)
    return fill(model, weights.state_dict, dtype=dtype, device=device, source=source)


def fill(
    model: Model,
    tensors: Mapping[str, Tensor],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    source: str | Path = "the checkpoint",
    like: nn.Module | None = None,
    quantize: Method = "none",
) -> Model:
    """Give a model its weights, for inference. Tensors already in place and in dtype are used as they are.

    Args:
        model: built on the meta device; its dtype does not matter.
        dtype: of the weights; None keeps the tensors' own.
        like: a module with the keys and shapes to expect, where the model's own layers have no weights yet.
        quantize: how to make large matrices small; each is, before the next is read.
    Raises: CheckpointError if keys or shapes do not fit the model.
    """
    check_fit(model if like is None else like, tensors, source)
    dtype = weights_dtype(tensors, dtype, source)
    # One tensor at a time: what is cast or moved is only ever held once.
    move = _mover(torch.device(device))
    placed = {
        key: tensor if becomes_small(key, tensor, quantize) else move(tensor, dtype) for key, tensor in tensors.items()
    }
    if like is None:
        _place(model, placed)
        quantize_model(model, quantize, dtype=dtype, device=device)
    else:
        model.requires_grad_(False)
        model.load_state_dict(placed, assign=True)  # a host's layers may have their own way to take weights
    return model.eval()


def _mover(device: torch.device) -> Callable[[Tensor, torch.dtype | None], Tensor]:
    """Gives a tensor on a device, in a dtype."""
    if device.type == "cuda":
        return Uploads(device).copy
    return lambda tensor, dtype: tensor.to(device=device, dtype=dtype)


def _place(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """load_state_dict(assign=True) for tensors that fit, in a tenth of its time."""
    modules = dict(model.named_modules(remove_duplicate=False))
    for key, tensor in tensors.items():
        owner, _, name = key.rpartition(".")
        module = modules[owner]
        if name in module._parameters:
            module._parameters[name] = nn.Parameter(tensor, requires_grad=False)
        else:
            module._buffers[name] = tensor


def open_component(path: str | Path, component: Component) -> Weights:
    """Weights under diffusers' names, in whatever form they are stored; small numbers stay small.

    Raises: CheckpointError as `open_weights`, or for a number format that is not read.
    """
    weights = in_own_names(decoded(open_weights(path)), component)
    return weights.with_entries({key: entry for key, entry in weights.entries.items() if key != _V_PREDICTION_MARKER})


def _open(path: str | Path, name: Component) -> tuple[Weights, dict[str, Any] | None]:
    """A component's weights, and the configuration that came with them."""
    path = component_path(path, name)
    weights = open_component(path, name)
    return weights, declared_config(weights, path)


def declared_config(weights: Weights, path: str | Path) -> dict[str, Any] | None:
    """The config.json that came with weights, beside them or in their header; None if there is none."""
    declared = read_config(path)
    if declared is None and "config" in weights.metadata:
        declared = parse_json(weights.metadata["config"], f"the config in the header of {path}")
    return declared


def check_fit(model: nn.Module, tensors: Mapping[str, Tensor], source: str | Path) -> None:
    """Raises: CheckpointError if the keys and shapes of `tensors` are not those of the model."""
    wanted = {key: tensor.shape for key, tensor in model.state_dict().items()}
    found = {key: tensor.shape for key, tensor in tensors.items()}
    misshapen = [
        f"{key} {list(found[key])} instead of {list(shape)}"
        for key, shape in wanted.items()
        if key in found and found[key] != shape
    ]
    faults = {
        "missing": [key for key in wanted if key not in found],
        "unexpected": [key for key in found if key not in wanted],
        "of another shape": misshapen,
    }
    told = [
        f"{len(keys)} {'keys' if keys[1:] else 'key'} {fault} ({listed(keys)})"
        for fault, keys in faults.items()
        if keys
    ]
    if told:
        raise CheckpointError(
            f"{source} does not fit the model its shapes announce: {', '.join(told)}; download it again, or "
            "give the weights of a CogVideoX model"
        )
