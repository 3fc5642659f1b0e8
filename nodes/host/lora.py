"""LoRA on a MODEL: our files as ComfyUI's patches, and our MODEL's names for ComfyUI's own LoRA loaders."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import comfy.lora
from comfy.weight_adapter import LoRAAdapter

from ...cogvideox_core.models.transformer.model import CogVideoXTransformer3D
from ...cogvideox_core.weights import empty_layers as layers
from ...cogvideox_core.weights.lora import module_shapes, read_lora
from .model import CogVideoXModel, cogvideox_model

logger = logging.getLogger("cogvideox")

_ROOT = "diffusion_model."
# What files put before a module's name: with dots, and with underscores instead of them.
_DOTTED = ("", "transformer.", "base_model.model.", "base_model.model.transformer.", "model.diffusion_model.")
_FLAT = ("lora_unet__", "lora_transformer_", "lycoris_")


def add_lora(patcher: Any, path: str | Path, strength: float, *, normalize: bool = False) -> tuple[Any, str]:
    """A clone of a MODEL with the LoRA at `path` on it, and what was done with the file's keys.

    Raises: ValueError if it is not our MODEL; CheckpointError if the file holds no LoRA for it.
    """
    model = cogvideox_model(patcher)
    built = CogVideoXTransformer3D(model.config, device="meta", operations=layers)
    file = read_lora(path, module_shapes(built), normalize=normalize)
    patches = {
        f"{_ROOT}{name}.weight": LoRAAdapter(
            set(), (addition.up, addition.down, addition.scale * addition.rank, None, None, None)
        )
        for name, addition in file.additions.items()
    }
    patched = patcher.clone()
    patched.add_patches(patches, strength)
    report = file.report()
    logger.log(logging.WARNING if file.unmatched else logging.INFO, "LoRA %s: %s", Path(path).name, report)
    return patched, report


def teach_names() -> None:
    """Let ComfyUI's own LoRA loaders find our modules under every name that files give them. Done once."""
    original = comfy.lora.model_lora_keys_unet
    if not getattr(original, "_knows_cogvideox", False):
        comfy.lora.model_lora_keys_unet = _with_our_names(original)


def _with_our_names(original: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    @wraps(original)
    def model_lora_keys_unet(model: Any, key_map: dict[str, Any] | None = None) -> dict[str, Any]:
        key_map = original(model, {} if key_map is None else key_map)
        if isinstance(model, CogVideoXModel):
            for key in model.state_dict():
                if key.startswith(_ROOT) and key.endswith(".weight"):
                    name = key.removeprefix(_ROOT).removesuffix(".weight")
                    key_map |= dict.fromkeys((prefix + name for prefix in _DOTTED), key)
                    key_map |= dict.fromkeys((prefix + name.replace(".", "_") for prefix in _FLAT), key)
        return key_map

    model_lora_keys_unet._knows_cogvideox = True  # type: ignore[attr-defined]
    return model_lora_keys_unet
