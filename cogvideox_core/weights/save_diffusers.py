"""Writing models in diffusers' folder layout, which other programs read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ..models.config import ScheduleConfig, TransformerConfig, VAEConfig
from .writing import atomic_write

_WEIGHTS = "diffusion_pytorch_model.safetensors"
_LORA = "pytorch_lora_weights.safetensors"
_DIFFUSERS = "0.33.0"  # the oldest release whose classes accept every field written here


def write_vae(tensors: Mapping[str, Tensor], config: VAEConfig, folder: Path, dtype: torch.dtype) -> None:
    """Write the `vae` folder.

    Args:
        tensors: [...] each, by diffusers' keys.
        dtype: of the file.
    """
    levels = len(config.block_out_channels)
    declared = {
        **asdict(config),
        "down_block_types": ["CogVideoXDownBlock3D"] * levels,
        "up_block_types": ["CogVideoXUpBlock3D"] * levels,
    }
    write_component(folder, "AutoencoderKLCogVideoX", declared, tensors, dtype)


def write_transformer(transformer: nn.Module, config: TransformerConfig, folder: Path, dtype: torch.dtype) -> None:
    """Write the `transformer` folder.

    A model without the table of learned positions that its config has gets one of zeros, [1, text tokens + patches, D].
    """
    tensors = transformer.state_dict()
    if config.use_learned_positional_embeddings:
        tensors.setdefault("patch_embed.pos_embedding", torch.zeros(1, config.position_rows, config.width))
    write_component(folder, "CogVideoXTransformer3DModel", asdict(config), tensors, dtype)


def write_lora(pairs: Mapping[str, tuple[Tensor, Tensor]], folder: Path, dtype: torch.dtype) -> None:
    """Write `pytorch_lora_weights.safetensors` into a folder.

    Args: pairs: up [out, r] and down [r, in] by the names of a transformer's layers.
    """
    tensors = {}
    for name, (up, down) in pairs.items():
        tensors |= {f"transformer.{name}.lora_A.weight": down, f"transformer.{name}.lora_B.weight": up}
    folder.mkdir(parents=True, exist_ok=True)
    _write_tensors(folder / _LORA, tensors, dtype)


def write_text_encoder(model: Any, folder: Path, dtype: torch.dtype) -> None:
    """Write the `text_encoder` folder of transformers' T5EncoderModel."""
    tensors = model.state_dict()
    tensors.pop("encoder.embed_tokens.weight", None)  # the same tensor as shared.weight
    declared = {**model.config.to_diff_dict(), "architectures": ["T5EncoderModel"]}
    for name in ("dtype", "torch_dtype", "transformers_version"):
        declared.pop(name, None)
    folder.mkdir(parents=True, exist_ok=True)
    _write_tensors(folder / "model.safetensors", tensors, dtype)
    write_json(folder / "config.json", {**declared, "dtype": str(dtype).removeprefix("torch.")})


def write_scheduler(config: ScheduleConfig, folder: Path) -> None:
    """Write the `scheduler` folder: v-prediction, zero terminal SNR, trailing timesteps."""
    declared = {
        **asdict(config),
        "beta_schedule": "scaled_linear",
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
        "set_alpha_to_one": True,
        "steps_offset": 0,
        "clip_sample": False,
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "scheduler_config.json", describe("CogVideoXDDIMScheduler", declared))


def write_index(folder: Path, pipeline: str) -> None:
    """Write `model_index.json`, which names the class that opens each folder."""
    components = {
        "scheduler": ["diffusers", "CogVideoXDDIMScheduler"],
        "text_encoder": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "T5Tokenizer"],
        "transformer": ["diffusers", "CogVideoXTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLCogVideoX"],
    }
    write_json(folder / "model_index.json", describe(pipeline, components))


def write_component(
    folder: Path, class_name: str, declared: Mapping[str, Any], tensors: Mapping[str, Tensor], dtype: torch.dtype
) -> None:
    """Write a component's folder: its `config.json` and one weight file.

    Args:
        class_name: diffusers' class that opens it.
        tensors: [...] each, by diffusers' keys.
        dtype: of the file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _write_tensors(folder / _WEIGHTS, tensors, dtype)
    write_json(folder / "config.json", describe(class_name, declared))


def _write_tensors(path: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    """One weight file, complete or not there at all."""
    converted = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in tensors.items()}
    with atomic_write(path) as part:
        save_file(converted, part, metadata={"format": "pt"})


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write an indented JSON file with sorted keys."""
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def describe(class_name: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """The content of one of diffusers' JSON files, with the class it is for and the release that reads it."""
    return {"_class_name": class_name, "_diffusers_version": _DIFFUSERS, **content}
