"""Toy transformers whose matrices are whole blocks of 32 numbers, for tests of the forms that files come in."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cogvideox_core.models.transformer.model import CogVideoXTransformer3D
from tests.support.checkpoints import random_transformer, toy_transformer_config

WIDE = dict(num_attention_heads=2, text_embed_dim=64)


def state_of(kind: str) -> dict[str, Tensor]:
    """The tensors of diffusers' toy model of a kind."""
    return random_transformer(toy_transformer_config(kind, **WIDE)).state_dict()


def output(model: CogVideoXTransformer3D) -> Tensor:
    """What a toy predicts for the same random latents and prompt every time, [1, C, T, H, W] in float32."""
    config = model.config
    generator = torch.Generator().manual_seed(0)
    rows, columns = (config.sample_height, config.sample_width) if config.use_learned_positional_embeddings else (6, 8)
    frames, length = (5, 226) if config.use_learned_positional_embeddings else (2 * config.frame_patch, 7)
    latents = torch.randn(1, config.in_channels, frames, rows, columns, generator=generator)
    prompt = torch.randn(1, length, config.text_embed_dim, generator=generator)
    dtype = model.proj_out.bias.dtype
    return model(latents.to(dtype), prompt.to(dtype), torch.tensor([500])).float()


def with_config(path: Path, kind: str) -> Path:
    """`path` with what no tensor of a toy shows, its size: in its folder's config.json or in the file's header."""
    config = json.dumps(toy_transformer_config(kind, **WIDE))
    if path.is_dir():
        (path / "config.json").write_text(config)
    else:
        save_file(load_file(path), path, metadata={"config": config})
    return path
