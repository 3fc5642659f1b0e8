"""Random LoRAs, written in the forms that programs write them in; for tests of core and host."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

RANK, ALPHA = 4, 2.0
ATTENTION = [f"attn1.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0")]
ALL = [*ATTENTION, "ff.net.0.proj", "ff.net.2", "norm1.linear", "norm2.linear"]
Pairs = dict[str, tuple[Tensor, Tensor]]  # up, down by module


def pairs_of(model: nn.Module, layers: list[str] = ATTENTION, seed: int = 0) -> Pairs:
    generator = torch.Generator().manual_seed(seed)
    modules = dict(model.named_modules())
    names = [f"transformer_blocks.{block}.{layer}" for block in range(2) for layer in layers]
    pairs = {}
    for name in names:
        weight: Any = modules[name].weight
        rows, columns = weight.shape
        up, down = torch.randn(rows, RANK, generator=generator), torch.randn(RANK, columns, generator=generator)
        pairs[name] = 0.3 * up, 0.3 * down
    return pairs


def peft(prefix: str, adapter: str = "") -> Callable[[Pairs, Path], Path]:
    def write(pairs: Pairs, path: Path) -> Path:
        tensors = {}
        for name, (up, down) in pairs.items():
            tensors[f"{prefix}{name}.lora_A{adapter}.weight"] = down
            tensors[f"{prefix}{name}.lora_B{adapter}.weight"] = up
        return save(tensors, path)

    return write


def diffusers_older(pairs: Pairs, path: Path) -> Path:
    tensors = {}
    for name, (up, down) in pairs.items():
        own = name.replace("attn1.", "attn1.processor.").removesuffix(".0")
        tensors |= {f"transformer.{own}_lora.up.weight": up, f"transformer.{own}_lora.down.weight": down}
    return save(tensors, path)


# What other programs call the layers that differ.
DIFFSYNTH = {"transformer_blocks": "blocks", "to_out.0": "to_out", "ff.net.0.proj": "ff.0", "ff.net.2": "ff.2"}
COMFYUI = {
    "transformer_blocks": "blocks",
    "attn1.to_out.0": "attn_out",
    "attn1.to_": "",
    "ff.net.0.proj": "ff_proj",
    "ff.net.2": "ff_out",
}


def renamed(names: dict[str, str], prefix: str = "", adapter: str = "") -> Callable[[Pairs, Path], Path]:
    """PEFT's endings behind another program's names."""

    def write(pairs: Pairs, path: Path) -> Path:
        theirs = {}
        for name, pair in pairs.items():
            for ours, other in names.items():
                name = name.replace(ours, other)
            theirs[name] = pair
        return peft(prefix, adapter)(theirs, path)

    return write


def kohya(prefix: str) -> Callable[[Pairs, Path], Path]:
    def write(pairs: Pairs, path: Path) -> Path:
        tensors = {}
        for name, (up, down) in pairs.items():
            flat = prefix + name.replace(".", "_")
            tensors |= {f"{flat}.lora_up.weight": up, f"{flat}.lora_down.weight": down}
            tensors[f"{flat}.alpha"] = torch.tensor(ALPHA)
        tensors["lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_up.weight"] = torch.ones(2, 2)
        return save(tensors, path)

    return write


def sat(pairs: Pairs, path: Path) -> Path:
    """The whole model with the matrices inside, as SAT saves it."""
    tensors = {"time_embed.0.weight": torch.zeros(2), "mixins.patch_embed.proj.weight": torch.zeros(2)}
    for name, (up, down) in pairs.items():
        block, layer = name.split(".")[1], name.split("attn1.")[1]
        own = f"transformer.layers.{block}.attention."
        own += "dense" if layer == "to_out.0" else "query_key_value"
        index = {"to_out.0": 0, "to_q": 0, "to_k": 1, "to_v": 2}[layer]
        tensors |= {f"{own}.matrix_A.{index}": down, f"{own}.matrix_B.{index}": up}
        tensors[f"{own}.original.weight"] = torch.zeros(2)
    path = path.with_suffix(".pt")
    torch.save({"module": {"model.diffusion_model." + key: tensor for key, tensor in tensors.items()}}, path)
    return path


def with_metadata(pairs: Pairs, path: Path) -> Path:
    """diffusers' since 0.34: PEFT's configuration in the header."""
    told = {"transformer.r": RANK, "transformer.lora_alpha": ALPHA}
    return save(to_peft(pairs), path, metadata={"lora_adapter_metadata": json.dumps(told)})


def peft_folder(pairs: Pairs, path: Path) -> Path:
    folder = path.parent / "adapter"
    folder.mkdir()
    peft("base_model.model.")(pairs, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"r": RANK, "lora_alpha": ALPHA, "peft_type": "LORA"}))
    return folder


def to_peft(pairs: Pairs) -> dict[str, Tensor]:
    return {
        f"transformer.{name}.lora_{letter}.weight": matrix
        for name, (up, down) in pairs.items()
        for letter, matrix in (("A", down), ("B", up))
    }


def save(tensors: dict[str, Tensor], path: Path, **options: dict[str, str]) -> Path:
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path, **options)
    return path


# A writer, the layers it can name, the scale its file stands for, and how many keys are of something else.
FORMS: dict[str, tuple[Callable[[Pairs, Path], Path], list[str], float, int]] = {
    "transformer.": (peft("transformer."), ALL, 1.0, 0),
    "bare": (peft(""), ALL, 1.0, 0),
    "base_model.model.": (peft("base_model.model."), ALL, 1.0, 0),
    "base_model.model.transformer.": (peft("base_model.model.transformer."), ALL, 1.0, 0),
    "diffusion_model.": (peft("diffusion_model."), ALL, 1.0, 0),
    "default": (peft("transformer.", ".default"), ALL, 1.0, 0),
    "DiffSynth": (renamed(DIFFSYNTH, adapter=".default"), ALL, 1.0, 0),
    "ComfyUI": (renamed(COMFYUI, "diffusion_model."), ALL, 1.0, 0),
    "processors": (diffusers_older, ATTENTION, 1.0, 0),
    "kohya": (kohya("lora_unet_"), ALL, ALPHA / RANK, 1),
    "VideoX-Fun": (kohya("lora_unet__"), ALL, ALPHA / RANK, 1),
    "SAT": (sat, ATTENTION, 1 / RANK, 6),
    "metadata": (with_metadata, ALL, ALPHA / RANK, 0),
    "PEFT folder": (peft_folder, ALL, ALPHA / RANK, 0),
}
