"""The command `cogvideox models`: the names that `--model`, `--vae`, `--t5` and `--lora` take on this machine."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path

from ..weights.components import find_config, open_component
from ..weights.detect import find_variant, transformer_config
from ..weights.diffusers_folder import component_path, folder_variant
from ..weights.errors import CheckpointError
from ..weights.files import open_weights
from ..weights.places.listing import Kind
from ..weights.places.names import known_models, places
from ..weights.recognize import Component, expect_kind, recognize


def list_models(*kinds: Kind) -> str:
    """The names of these kinds as lines for people, with what each is; what is not CogVideoX's is only counted."""
    lines: list[str] = []
    others = 0
    for kind in kinds:
        found = {name: _description(kind, path) for name, path in known_models(kind).items()}
        told = {name: what for name, what in found.items() if what is not None}
        others += len(found) - len(told)
        width = max(map(len, told), default=0)
        lines += [_OPTIONS[kind], *(f"  {name:<{width}}  {what}" for name, what in told.items())]
        lines += [] if told else ["  none"]
    if others:
        lines.append(f"{others} more are of other models, or do not open: cogvideox inspect NAME says why")
    return "\n".join([*lines, f"Looked in {places()}."])


def _description(kind: Kind, path: Path) -> str | None:
    """What is at a path, in a few words and from its headers; None if it is nothing of this kind."""
    try:
        return _lora(path) if kind == "lora" else _component(path, kind)
    except (CheckpointError, OSError, ImportError):  # a list goes on, whatever one of its files is
        return None


def _component(path: Path, component: Component) -> str:
    """The model that a transformer is of; for another component, how it is stored."""
    path = component_path(path, component)
    weights = open_component(path, component)
    expect_kind(weights, component, path)
    if component != "transformer":
        return ", ".join(weights.form)
    config = transformer_config(weights.shapes, find_config(weights, path), source=path)
    return folder_variant(find_variant(config, source=path), path).name


def _lora(path: Path) -> str:
    kind = recognize(open_weights(path))
    if kind is None or kind.what != "a LoRA":
        raise CheckpointError(f"{path} holds no LoRA")
    return kind.what


_OPTIONS: dict[Kind, str] = {"transformer": "--model", "vae": "--vae", "text_encoder": "--t5", "lora": "--lora"}


def _add_arguments(parser: ArgumentParser) -> None:
    parser.description = (
        "List the models, VAEs, text encoders and LoRAs in ComfyUI's model folders, where COMFYUI_PATH says where "
        "ComfyUI is, and in Hugging Face's cache. Reads headers only."
    )


COMMANDS: dict[str, tuple[Callable[[ArgumentParser], None], Callable[[Namespace], str]]] = {
    "models": (_add_arguments, lambda options: list_models(*_OPTIONS))
}
