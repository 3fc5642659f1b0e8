"""LoRAs and other adapters: changes of a transformer's weights, from files of every program that writes them.

Several can be stacked, and a strength can change or an adapter be removed without loading anything again.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from .applied_lora import LoRA
from .lora_file import LoRAFile, read_lora
from .places.names import locate

__all__ = ["LoRA", "LoRAFile", "load_lora", "module_shapes", "read_lora", "weight_shapes"]

logger = logging.getLogger("cogvideox")


def load_lora(transformer: nn.Module, path: str | Path, strength: float = 1.0, *, divide_by_rank: bool = False) -> LoRA:
    """Read a LoRA, or another adapter, and put it on a transformer, on top of those that it has.

    Args:
        path: a file of PEFT or diffusers, kohya or VideoX-Fun, LyCORIS, DiffSynth-Studio or SAT; or the folder of a
            PEFT adapter; or the name of one, see `weights/places/names.py`.
        strength: how much of it: 0 for none, 1 as trained, negative for its opposite.
        divide_by_rank: where the file does not say its scale, take 1 / rank and not 1, as some published files need.
    Returns: the LoRA, with the `matched`, `unmatched` and `ignored` keys of the file.
    Raises: CheckpointError if the file holds no adapter, or none for this transformer; ValueError if it cannot go onto
        the transformer's quantized weights.
    """
    path = locate(path, "lora")
    lora = read_lora(path, module_shapes(transformer), divide_by_rank=divide_by_rank).apply(transformer, strength)
    logger.info("LoRA %s at strength %g: %s", Path(path).name, strength, lora.report())
    return lora


def module_shapes(transformer: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shape of the weight of each layer of a transformer, by the layer's name."""
    return {
        name: tuple(module.weight.shape)
        for name, module in transformer.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d | nn.LayerNorm)
    }


def weight_shapes(state_dict: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The same shapes from a transformer's tensors by key, [...] each, before the transformer is built."""
    names = {key.removesuffix(".weight"): key for key in state_dict if key.endswith(".weight")}
    return {name: tuple(state_dict[key].shape) for name, key in names.items()}
