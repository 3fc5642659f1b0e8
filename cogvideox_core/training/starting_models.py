"""The models that a stage starts from: new ones, or the parts of a model folder."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..models.config import TransformerConfig, VAEConfig
from ..models.transformer.model import CogVideoXTransformer3D, ExpertLayerNorm
from ..models.vae.autoencoder import AutoencoderCausal3D
from ..models.vae.blocks import ResnetBlock3D, SpatialNorm3D
from ..models.variants import Variant
from ..weights.load import load_transformer, load_vae

_TABLE, _PATCHES = "patch_embed.pos_embedding", "patch_embed.proj.weight"


def component(model: Path | None, name: str) -> Path:
    """The folder of a part of a model. Raises: ValueError if there is no model."""
    if model is None:
        raise ValueError(
            f"the recipe makes no {name} of its own; give the folder of a model that has one, with --model"
        )
    return model / name


def starting_vae(values: dict[str, Any] | None, model: Path | None) -> AutoencoderCausal3D:
    """A new VAE with these fields of VAEConfig; without any, that of the model. Float32."""
    if values is None:
        return load_vae(component(model, "vae"), dtype=torch.float32)
    vae = AutoencoderCausal3D(_changed(VAEConfig(), values))
    _initialize_vae(vae)
    return vae


def starting_transformer(values: dict[str, Any] | None, variant: Variant, model: Path | None) -> CogVideoXTransformer3D:
    """A new transformer with these fields of TransformerConfig; without any, that of the model. Float32.

    The model's own is widened where the variant takes more channels.

    A table of learned positions ties a model to one size. One that is not zero is kept; a new or zero one is left out
    while training, so that clips of every size can be packed, and written as zeros at the end.
    """
    if values is None:
        return _widened(load_transformer(component(model, "transformer"), dtype=torch.float32), variant)
    config = _changed(variant.transformer, {**values, "use_learned_positional_embeddings": False})
    transformer = CogVideoXTransformer3D(config, variant=variant)
    _initialize_transformer(transformer)
    return transformer


def _changed(config: Any, values: dict[str, Any]) -> Any:
    """A config with other values from JSON. Raises: ValueError if it has no such field."""
    known = {entry.name for entry in fields(config)}
    if unknown := sorted(set(values) - known):
        raise ValueError(
            f"{type(config).__name__} has no field {', '.join(unknown)}; it takes {', '.join(sorted(known))}"
        )
    as_fields = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return replace(config, **as_fields)


# --- New ones ----------------------------------------------------------------------------------------------------


def _initialize_vae(vae: AutoencoderCausal3D) -> None:
    """Start a new VAE so that signals neither grow nor fade with depth.

    Residual branches add nothing at first, and spatial norms are plain norms.
    """
    for module in vae.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d) and module.kernel_size[-1] > 1:
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            nn.init.zeros_(module.bias)  # type: ignore[arg-type] -- these have one
    for module in vae.modules():
        if isinstance(module, ResnetBlock3D):
            nn.init.zeros_(module.conv2.conv.weight)
        if isinstance(module, SpatialNorm3D):
            for conv, bias in ((module.conv_y.conv, 1.0), (module.conv_b.conv, 0.0)):
                nn.init.normal_(conv.weight, std=0.02)
                nn.init.constant_(conv.bias, bias)


def _initialize_transformer(transformer: CogVideoXTransformer3D) -> None:
    """Start a new transformer as the identity: all gates and the output are zero (adaLN-Zero, arXiv 2212.09748)."""
    linears: list[Any] = [module.linear for module in transformer.modules() if isinstance(module, ExpertLayerNorm)]
    for linear in [*linears, transformer.proj_out]:
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)


# --- A wider one -------------------------------------------------------------------------------------------------


def _widened(trained: CogVideoXTransformer3D, variant: Variant) -> CogVideoXTransformer3D:
    """The same transformer with as many input channels as the variant has, and without a table of zeros."""
    tensors = trained.state_dict()
    table = tensors.get(_TABLE)
    keep_table = table is not None and bool(table.any())
    if not keep_table:
        tensors.pop(_TABLE, None)
    config = replace(
        trained.config, in_channels=variant.transformer.in_channels, use_learned_positional_embeddings=keep_table
    )
    transformer = CogVideoXTransformer3D(config, variant=variant)
    tensors[_PATCHES] = _with_zeros(tensors[_PATCHES], config)
    transformer.load_state_dict(tensors)
    return transformer


def _with_zeros(weight: Tensor, config: TransformerConfig) -> Tensor:
    """The patch embedding's weight with zeros for new input channels, so that they change nothing at first.

    Takes [D, C, p, p] (1.0, a Conv2d) or [D, C * cells] (1.5, a Linear; the cells of a patch of one channel follow each
    other). New channels come last.
    """
    if weight.ndim == 4:
        missing = config.in_channels - weight.shape[1]
        return torch.cat([weight, weight.new_zeros(len(weight), missing, *weight.shape[2:])], dim=1)
    cells = config.frame_patch * config.patch_size**2
    missing = config.in_channels * cells - weight.shape[1]
    return torch.cat([weight, weight.new_zeros(len(weight), missing)], dim=1)
