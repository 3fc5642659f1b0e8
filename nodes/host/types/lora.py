"""LoRAs and other adapters on a MODEL: files that the core reads, as ComfyUI's patches."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from comfy.weight_adapter import LoRAAdapter, WeightAdapterBase

from ....cogvideox_core.models.transformer.model import CogVideoXTransformer3D
from ....cogvideox_core.weights import empty_layers as layers
from ....cogvideox_core.weights.adapters import Delta, LoRADelta
from ....cogvideox_core.weights.lora import module_shapes, read_lora
from .model import cogvideox_model
from .weight_adapter import CoreAdapter

logger = logging.getLogger("cogvideox")

ROOT = "diffusion_model."  # of the keys of a MODEL


def add_lora(patcher: Any, path: str | Path, strength: float, *, divide_by_rank: bool = False) -> tuple[Any, str]:
    """A clone of a MODEL with the LoRA at `path` on it, and what was done with the file's keys.

    Raises: ValueError if it is not our MODEL; CheckpointError if the file holds no LoRA for it.
    """
    model = cogvideox_model(patcher)
    built = CogVideoXTransformer3D(model.config, device="meta", operations=layers)
    file = read_lora(path, module_shapes(built), divide_by_rank=divide_by_rank)
    patches = {f"{ROOT}{name}.weight": _adapter(delta) for name, delta in file.deltas.items()}
    patches |= {f"{ROOT}{name}.bias": _adapter(delta) for name, delta in file.biases.items()}
    patched = patcher.clone()
    patched.add_patches(patches, strength)
    report = file.report()
    logger.log(logging.WARNING if file.unmatched else logging.INFO, "LoRA %s: %s", Path(path).name, report)
    return patched, report


def _adapter(delta: Delta) -> WeightAdapterBase:
    """A delta as ComfyUI's patch: a LoRA as ComfyUI's own, all others as the core computes them."""
    if isinstance(delta, LoRADelta):
        return LoRAAdapter(set(), (delta.up, delta.down, delta.scale * delta.rank, None, None, None))
    return CoreAdapter.of(delta)
