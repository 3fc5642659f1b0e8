"""Loading transformers and VAEs: opened without reading numbers, built without memory, then given the mapped tensors.

A host that builds its own models uses `read_transformer` and `read_vae`, and `fill_host_module` of fill.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..models.config import TransformerConfig, VAEConfig
from ..models.transformer.model import CogVideoXTransformer3D
from ..models.vae.autoencoder import AutoencoderCausal3D
from ..models.variants import Variant
from . import empty_layers as layers
from .components import find_config, open_component
from .detect import find_variant, transformer_config, vae_config
from .diffusers_folder import component_path
from .dtypes import named_dtype
from .entries import OpenWeights
from .fill import fill
from .places.names import locate
from .quantize import Method, check_method, check_quantizable
from .recognize import Component


class TransformerWeights(NamedTuple):
    """A transformer that is open: its configuration, its row of VARIANTS, and its mapped tensors by diffusers' keys."""

    config: TransformerConfig
    variant: Variant
    state_dict: dict[str, Tensor]


class VAEWeights(NamedTuple):
    """A VAE that is open: its configuration, and its mapped tensors by diffusers' keys."""

    config: VAEConfig
    state_dict: dict[str, Tensor]


def read_transformer(path: str | Path) -> TransformerWeights:
    """Open a transformer without building it; nothing is copied.

    Args:
        path: a whole CogVideoX folder, its transformer folder, or a weight file; or the name of one, see
            `weights/places/names.py`.
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
        path: a whole CogVideoX folder, its transformer folder, or a weight file; or the name of one, see
            `weights/places/names.py`.
        dtype: of the weights; None keeps the file's, mapped and not copied (on the CPU).
        device: where the weights go.
        operations: namespace with Linear, Conv2d and LayerNorm; a host may bring its own.
        quantize: "int8" or "llm.int8" for the large matrices in 8 bits; see `weights/quantize.py`.
    Raises: CheckpointError if the weights do not make a known CogVideoX transformer; ValueError for an
        unknown dtype or method, or a method where all matrices are quantized already; ImportError if bitsandbytes is
        needed and missing.
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
    """The transformer of weights that are open; `source` names them in messages. Otherwise as `load_transformer`."""
    check_method(quantize)
    dtype = None if dtype is None else named_dtype(dtype)
    check_quantizable(weights.state_dict, quantize, source)
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


def _open(path: str | Path, component: Component) -> tuple[OpenWeights, dict[str, Any] | None]:
    """A component's weights, and the config.json that came with them."""
    path = component_path(locate(path, component), component)
    weights = open_component(path, component)
    return weights, find_config(weights, path)
