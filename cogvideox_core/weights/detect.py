"""Configurations from keys and tensor shapes, never from a file's name.

What shapes do not show (training size, interpolation scales, sincos or rotary positions) comes from the checkpoint's
own `config.json` where there is one, else from the row of VARIANTS that has the same shapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..models.config import TransformerConfig, VAEConfig
from ..models.variants import VARIANTS, Variant, rows_like
from .config_json import check_fixed, declared_fields
from .errors import CheckpointError
from .recognize import expect_kind

Shapes = Mapping[str, tuple[int, ...]]

# Latent frames, rows and columns in a patch of a Linear patch embedding, whose shape shows only their product.
_LINEAR_PATCH = 2

_FIXED_TRANSFORMER = {
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "norm_elementwise_affine": True,
    "timestep_activation_fn": "silu",
}
_FIXED_VAE = {"act_fn": "silu", "shift_factor": None, "latents_mean": None, "latents_std": None}


def transformer_config(
    shapes: Shapes, declared: Mapping[str, Any] | None = None, *, source: str | Path = "the checkpoint"
) -> TransformerConfig:
    """The configuration of the transformer that has these tensors.

    Args:
        shapes: shape of every tensor by its diffusers key.
        declared: the config.json that came with them, or None.
        source: names the weights in messages.
    Raises: CheckpointError if they are no transformer, contradict `declared`, or are built like no known variant.
    """
    expect_kind(shapes, "transformer", source)
    check_fixed(declared, _FIXED_TRANSFORMER, source)
    by_config = declared_fields(TransformerConfig, declared, source)
    by_shapes = _transformer_shapes(shapes, by_config, source)
    _check_agreement(by_config, by_shapes, source)
    known = by_config | by_shapes
    if "use_rotary_positional_embeddings" not in known:
        known["use_rotary_positional_embeddings"] = _rotary_by_width(known)
    row = _row(TransformerConfig(**known), source)
    config = replace(row.transformer, **known)
    _check_table(shapes, config, source)
    return config


def find_variant(config: TransformerConfig, *, source: str | Path = "the checkpoint") -> Variant:
    """The row of VARIANTS built like `config`, at any size. Raises: CheckpointError if there is none."""
    return _row(config, source)


def vae_config(
    shapes: Shapes, declared: Mapping[str, Any] | None = None, *, source: str | Path = "the checkpoint"
) -> VAEConfig:
    """The configuration of the VAE that has these tensors; arguments and errors as for `transformer_config`.

    No shape shows the scaling factor: without `declared` it is the default. The pipeline takes it from the variant.
    """
    expect_kind(shapes, "vae", source)
    check_fixed(declared, _FIXED_VAE, source)
    by_config = declared_fields(VAEConfig, declared, source)
    by_shapes = _vae_shapes(shapes, source)
    _check_agreement(by_config, by_shapes, source)
    config = VAEConfig(**by_config | by_shapes)
    odd = [width for width in config.block_out_channels if width % config.norm_num_groups]
    if odd:
        raise CheckpointError(
            f"{source} has a level {odd[0]} channels wide, which {config.norm_num_groups} norm groups do not divide; "
            "give the folder with the config.json that declares norm_num_groups"
        )
    return config


def _transformer_shapes(shapes: Shapes, by_config: Mapping[str, Any], source: str | Path) -> dict[str, Any]:
    """The fields of a transformer's configuration that shapes show."""
    proj = _shape(shapes, "patch_embed.proj.weight", (2, 4), source)
    width = proj[0]
    head_dim = _shape(shapes, "transformer_blocks.0.attn1.norm_q.weight", (1,), source)[0]
    if len(proj) == 4:  # a convolution: [width, channels, rows, columns]
        patch, patch_t, channels = proj[2], None, proj[1]
    else:  # a Linear: [width, channels * frames * rows * columns]
        patch = by_config.get("patch_size") or _LINEAR_PATCH
        patch_t = by_config.get("patch_size_t") or _LINEAR_PATCH
        channels = _parts(proj[1], patch_t * patch**2, "patch_embed.proj.weight", source)
    ofs = "ofs_embedding.linear_1.weight"
    out_features = _shape(shapes, "proj_out.weight", (2,), source)[0]
    return {
        "num_attention_heads": _parts(width, head_dim, "patch_embed.proj.weight", source),
        "attention_head_dim": head_dim,
        "num_layers": _count(shapes, "transformer_blocks.", source),
        "in_channels": channels,
        "out_channels": _parts(out_features, (patch_t or 1) * patch**2, "proj_out.weight", source),
        "time_embed_dim": _shape(shapes, "time_embedding.linear_1.weight", (2,), source)[0],
        "ofs_embed_dim": _shape(shapes, ofs, (2,), source)[1] if ofs in shapes else None,
        "text_embed_dim": _shape(shapes, "patch_embed.text_proj.weight", (2,), source)[1],
        "patch_size": patch,
        "patch_size_t": patch_t,
        "use_learned_positional_embeddings": "patch_embed.pos_embedding" in shapes,
    }


def _vae_shapes(shapes: Shapes, source: str | Path) -> dict[str, Any]:
    """The fields of a VAE's configuration that shapes show."""
    levels = _count(shapes, "encoder.down_blocks.", source)
    resnet = "encoder.down_blocks.{}.resnets.0.conv1.conv.weight"
    return {
        "in_channels": _shape(shapes, "encoder.conv_in.conv.weight", (5,), source)[1],
        "out_channels": _shape(shapes, "decoder.conv_out.conv.weight", (5,), source)[0],
        "latent_channels": _shape(shapes, "decoder.conv_in.conv.weight", (5,), source)[1],
        "block_out_channels": tuple(_shape(shapes, resnet.format(i), (5,), source)[0] for i in range(levels)),
        "layers_per_block": _count(shapes, "encoder.down_blocks.0.resnets.", source),
    }


def _shape(shapes: Shapes, key: str, ranks: tuple[int, ...], source: str | Path) -> tuple[int, ...]:
    """The shape of a tensor, which must be there and have one of these numbers of dimensions."""
    if key not in shapes:
        raise CheckpointError(f"{source} lacks {key}; the file is incomplete, download it again")
    shape = tuple(shapes[key])
    if len(shape) not in ranks or 0 in shape:
        wanted = " or ".join(str(rank) for rank in ranks)
        raise CheckpointError(
            f"{source} has {key} of shape {list(shape)} where {wanted} dimensions are expected; give the weights of "
            "a CogVideoX model"
        )
    return shape


def _parts(total: int, part: int, key: str, source: str | Path) -> int:
    if total % part:
        raise CheckpointError(
            f"{source} has {key} with {total} features, which do not divide by {part}; give the weights of a "
            "CogVideoX model"
        )
    return total // part


def _count(shapes: Shapes, prefix: str, source: str | Path) -> int:
    """How many numbered modules there are under `prefix`; their numbers must be 0, 1, 2 ... without a gap."""
    names = {key[len(prefix) :].split(".")[0] for key in shapes if key.startswith(prefix)}
    absent = [str(number) for number in range(len(names)) if str(number) not in names]
    if absent or not names:
        gap = f"{prefix}{absent[0] if absent else 0}"
        raise CheckpointError(f"{source} lacks {gap} among {len(names)} found; it is incomplete, download it again")
    return len(names)


def _check_agreement(by_config: Mapping[str, Any], by_shapes: Mapping[str, Any], source: str | Path) -> None:
    differing = [
        f"{name} {by_config[name]} where the tensors show {found}"
        for name, found in by_shapes.items()
        if name in by_config and by_config[name] != found
    ]
    if differing:
        raise CheckpointError(
            f"{source} does not fit the configuration that came with it, which declares {', '.join(differing)}; use "
            "the config.json that belongs to these weights"
        )


def _rotary_by_width(known: Mapping[str, Any]) -> bool:
    """Whether positions are rotary: yes, unless a released model of this build and width (2B, 1920) has none."""
    config = TransformerConfig(**known, use_rotary_positional_embeddings=False)
    return not any(row.transformer.width == config.width for row in rows_like(config))


def _row(config: TransformerConfig, source: str | Path) -> Variant:
    if rows := rows_like(config):
        return rows[0]
    raise CheckpointError(
        f"{source} {_description(config)}; supported are {', '.join(VARIANTS)} and models built like them"
    )


def _description(config: TransformerConfig) -> str:
    """What a model of unknown build has, as the rest of a sentence."""
    family = "1.0" if config.patch_size_t is None else "1.5"
    positions = "rotary" if config.use_rotary_positional_embeddings else "sincos"
    table = "a" if config.use_learned_positional_embeddings else "no"
    offset = "an" if config.ofs_embed_dim is not None else "no"
    return (
        f"has {config.in_channels} input channels in the {family} family, {positions} positions, {table} position "
        f"table and {offset} offset, like no known model"
    )


def _check_table(shapes: Shapes, config: TransformerConfig, source: str | Path) -> None:
    """Refuse a learned position table that is not of the training size: a row for each text token and each patch."""
    if not config.use_learned_positional_embeddings:
        return
    rows = _shape(shapes, "patch_embed.pos_embedding", (3,), source)[1]
    if rows != config.position_rows:
        raise CheckpointError(
            f"{source} has a position table of {rows} rows; {config.max_text_seq_length} text tokens and "
            f"{config.sample_frames} frames of {config.sample_height} x {config.sample_width} latents take "
            f"{config.position_rows}, give the folder with the config.json that belongs to these weights"
        )
