"""The command `cogvideox models`: the names that `--model`, `--vae`, `--t5` and `--lora` take on this machine."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path

from ..weights.errors import CheckpointError
from ..weights.files import open_weights
from ..weights.inspect import inspect
from ..weights.load import read_transformer, read_vae
from ..weights.places.listing import Kind
from ..weights.places.names import known_models, places
from ..weights.recognize import recognize
from ..weights.t5 import read_text_encoder


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
    """What is at a path, in a few words; None if it is nothing of this kind."""
    try:
        return _DESCRIPTIONS[kind](path)
    except (CheckpointError, OSError, ImportError):  # a list goes on, whatever one of its files is
        return None


def _lora(path: Path) -> str:
    kind = recognize(open_weights(path))
    if kind is None or kind.what != "a LoRA":
        raise CheckpointError(f"{path} holds no LoRA")
    return inspect(path)[0].what


_OPTIONS: dict[Kind, str] = {"transformer": "--model", "vae": "--vae", "text_encoder": "--t5", "lora": "--lora"}
_DESCRIPTIONS: dict[Kind, Callable[[Path], str]] = {
    "transformer": lambda path: read_transformer(path).variant.name,
    "vae": lambda path: f"{read_vae(path).config.latent_channels} channels",
    "text_encoder": lambda path: f"{read_text_encoder(path).config['d_model']} wide",
    "lora": _lora,
}


def _add_arguments(parser: ArgumentParser) -> None:
    parser.description = (
        "List the models, VAEs, text encoders and LoRAs in ComfyUI's model folders, where COMFYUI_PATH says where "
        "ComfyUI is, and in Hugging Face's cache. Reads headers only."
    )


COMMANDS: dict[str, tuple[Callable[[ArgumentParser], None], Callable[[Namespace], str]]] = {
    "models": (_add_arguments, lambda options: list_models(*_OPTIONS))
}
