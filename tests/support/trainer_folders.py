"""Folders that libraries and training programs leave, written by diffusers and accelerate themselves.

DeepSpeed itself writes in `deepspeed_checkpoint.py`, where it is installed; here are the same dicts.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import CogVideoXPipeline

from tests.support.lora_forms import Pairs
from tests.support.weight_forms import State, deepspeed_states

Writer = Callable[[Any, Path], Path]


def saved(**options: Any) -> Writer:
    """diffusers' `save_pretrained`."""

    def write(model: Any, folder: Path) -> Path:
        model.save_pretrained(folder / "saved", **options)
        return folder / "saved"

    return write


def half_of(model: Any) -> int:
    """A size of shards of which the model takes several."""
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values()) // 2


def shards(**options: Any) -> Writer:
    return lambda model, folder: saved(max_shard_size=half_of(model), **options)(model, folder)


def both_sorts_of_shards(model: Any, folder: Path) -> Path:
    """As on the hub: .safetensors and .bin, each with its index; the .bin are another model's."""
    shards(safe_serialization=True)(model, folder)
    kept = {path.name: path.read_bytes() for path in (folder / "saved").glob("*")}
    other = type(model).from_config(model.config)
    shards(safe_serialization=False)(other, folder)
    for name, content in kept.items():
        (folder / "saved" / name).write_bytes(content)
    return folder / "saved"


def accelerated(model: Any, *, hook: Callable[..., None] | None = None) -> Accelerator:
    """An accelerator that has prepared the model, an optimizer and a schedule, all of which it saves."""
    accelerator = Accelerator(cpu=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    accelerator.prepare(model, optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer))
    if hook is not None:
        accelerator.register_save_state_pre_hook(hook)
    return accelerator


def accelerate_state(**options: Any) -> Writer:
    """accelerate's `save_state`, as trainers call it."""

    def write(model: Any, folder: Path) -> Path:
        accelerated(model).save_state(str(folder / "checkpoint-500"), **options)
        return folder / "checkpoint-500"

    return write


def accelerate_shards(safe: bool) -> Writer:
    def write(model: Any, folder: Path) -> Path:
        size = f"{half_of(model) / 1000:.0f}KB"
        Accelerator(cpu=True).save_model(model, str(folder / "model"), max_shard_size=size, safe_serialization=safe)
        return folder / "model"

    return write


def transformer_in_checkpoint(model: Any, folder: Path) -> Path:
    """diffusers' and finetrainers' full fine-tune: the hook writes `transformer`, accelerate what is left."""

    def hook(models: list[Any], weights: list[Any], output: str) -> None:
        for one in models:
            one.save_pretrained(Path(output) / "transformer")
            weights.pop()

    accelerated(model, hook=hook).save_state(str(folder / "checkpoint-500"))
    return folder / "checkpoint-500"


def lora_checkpoint(model: Any, pairs: Pairs, folder: Path) -> Path:
    """diffusers', finetrainers' and zai-org's LoRA: the hook writes pytorch_lora_weights.safetensors."""
    layers = {f"{name}.lora_{part}.weight": matrix for name, (up, down) in pairs.items()
              for part, matrix in (("A", down), ("B", up))}  # fmt: skip

    def hook(models: list[Any], weights: list[Any], output: str) -> None:
        weights.clear()
        CogVideoXPipeline.save_lora_weights(output, transformer_lora_layers=layers)

    accelerated(model, hook=hook).save_state(str(folder / "checkpoint-500"))
    return folder / "checkpoint-500"


def deepspeed(tag: str) -> Writer:
    """accelerate calls the folder pytorch_model, DeepSpeed itself global_step500."""
    return lambda model, folder: deepspeed_folder(model.state_dict(), folder, tag)


def deepspeed_folder(tensors: State, folder: Path, tag: str = "pytorch_model") -> Path:
    """What accelerate leaves of a training with DeepSpeed: latest, the states it names, and the optimizer's."""
    states = folder / "checkpoint-500" / tag / "mp_rank_00_model_states.pt"
    states.parent.mkdir(parents=True)
    torch.save(deepspeed_states(tensors), states)
    optimizer = {"optimizer_state_dict": {"loss_scaler": Accelerator}, "ds_version": "0.19.8"}
    torch.save(optimizer, states.with_name("bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"))
    (folder / "checkpoint-500" / "latest").write_text(tag)
    torch.save({}, folder / "checkpoint-500" / "scheduler.bin")
    return folder / "checkpoint-500"


def newest_folder_alone(model: Any, folder: Path) -> Path:
    return deepspeed("pytorch_model")(model, folder) / "pytorch_model"


def fsdp_full(model: Any, folder: Path) -> Path:
    """accelerate's FULL_STATE_DICT."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), folder / "pytorch_model_fsdp.bin")
    torch.save({"state": {}}, folder / "optimizer.bin")
    return folder


FOLDERS: dict[str, Writer] = {
    "diffusers .bin": saved(safe_serialization=False),
    "diffusers .bin in shards": shards(safe_serialization=False),
    "diffusers with a variant": saved(variant="fp16"),
    "diffusers with a variant in shards": shards(variant="fp16"),
    "diffusers .bin with a variant": saved(variant="fp16", safe_serialization=False),
    "diffusers .bin with a variant in shards": shards(variant="fp16", safe_serialization=False),
    "shards of both sorts": both_sorts_of_shards,
    "accelerate": accelerate_state(),
    "accelerate .bin": accelerate_state(safe_serialization=False),
    "accelerate in shards": accelerate_shards(True),
    "accelerate .bin in shards": accelerate_shards(False),
    "checkpoint with transformer": transformer_in_checkpoint,
    "DeepSpeed pytorch_model": deepspeed("pytorch_model"),
    "DeepSpeed global_step500": deepspeed("global_step500"),
    "DeepSpeed's newest folder": newest_folder_alone,
    "FSDP full": fsdp_full,
}
"""Writers of a transformer's folder: each takes diffusers' model and a folder to make it in."""
