"""Our MODEL's names for ComfyUI's own LoRA loaders."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from itertools import chain, product
from typing import Any

import comfy.lora

from ....cogvideox_core.weights.adapter_names import names_elsewhere
from ..types.lora import ROOT
from ..types.model import CogVideoXModel

# What files put before a module's name: with dots, and with underscores instead of them.
_DOTTED = ("", "transformer.", "base_model.model.", "base_model.model.transformer.", "model.diffusion_model.", ROOT)
_FLAT = ("lora_unet_", "lora_unet__", "lora_transformer_", "lycoris_")


def install() -> None:
    """Let ComfyUI's own LoRA loaders find our modules under every name that files give them. Done once."""
    original = comfy.lora.model_lora_keys_unet
    if not getattr(original, "_knows_cogvideox", False):
        comfy.lora.model_lora_keys_unet = _with_our_names(original)


def _names(name: str) -> list[str]:
    """All that files call a module, with every prefix."""
    names = [name, *names_elsewhere(name)]
    flat = [name.replace(".", "_") for name in names]
    return ["".join(parts) for parts in chain(product(_DOTTED, names), product(_FLAT, flat))]


def _with_our_names(original: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    @wraps(original)
    def model_lora_keys_unet(model: Any, key_map: dict[str, Any] | None = None) -> dict[str, Any]:
        key_map = original(model, {} if key_map is None else key_map)
        if isinstance(model, CogVideoXModel):
            for key in model.state_dict():
                if key.startswith(ROOT) and key.endswith(".weight"):
                    key_map |= dict.fromkeys(_names(key.removeprefix(ROOT).removesuffix(".weight")), key)
        return key_map

    model_lora_keys_unet._knows_cogvideox = True  # type: ignore[attr-defined]
    return model_lora_keys_unet
