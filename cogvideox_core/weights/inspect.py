"""What a weight file is: which model, in which form and numbers, and whether it is whole. Reads headers only."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..models.text_encoder import t5_model
from ..models.transformer.model import CogVideoXTransformer3D
from ..models.vae.autoencoder import AutoencoderCausal3D
from ..weights.t5 import t5_config
from . import empty_layers as layers
from .codecs import CODECS
from .detect import find_variant, transformer_config, vae_config
from .diffusers_folder import pipeline_folder
from .entries import Weights
from .errors import CheckpointError
from .files import open_weights
from .load import declared_config, open_component
from .lora import is_lora, lora_ranks
from .recognize import COMPONENTS, Component, component_of, recognize
from .writing import entry_bytes


@dataclass
class Inspection:
    """What is known of weights without reading a number.

    Attributes:
        what: which kind of thing they are.
        variant: name of the model they are built like, for a transformer.
        form: what they are stored in: endings, formats of small numbers, whose names.
        numbers: how many numbers there are of each dtype or small format.
        nbytes: of all numbers, without the scales that small ones may have.
        missing, unexpected: keys a whole model of that build has and has not.
        fault: why they do not open, in a sentence; None if they do.
    """

    path: Path
    what: str
    variant: str | None = None
    form: tuple[str, ...] = ()
    numbers: dict[str, int] = field(default_factory=dict)
    nbytes: int = 0
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    fault: str | None = None

    @property
    def parameters(self) -> int:
        return sum(self.numbers.values())


def inspect(path: str | Path) -> list[Inspection]:
    """What lies at `path`: a weight file, a component's folder, or every component of a whole folder.

    Raises: CheckpointError if nothing can be opened at all.
    """
    path = Path(path)
    if path.is_dir() and pipeline_folder(path) == path:
        return [_inspect(path / name) for name in COMPONENTS if (path / name).is_dir()]
    return [_inspect(path)]


def _inspect(path: Path) -> Inspection:
    weights = open_weights(path)
    kind = recognize(weights)
    component = component_of(kind)
    if component is None:
        return _described(Inspection(path, _other(weights, kind)), weights)
    found = Inspection(path, COMPONENTS[component].what)
    try:
        weights = open_component(path, component)
        model = _built(weights, path, component, found)
    except CheckpointError as error:
        found.fault = str(error)
        return _described(found, weights)
    wanted = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    if component == "text_encoder":
        wanted.pop("encoder.embed_tokens.weight", None)  # the same as shared.weight
    found.missing = [key for key in wanted if key not in weights]
    found.unexpected = [key for key in weights if key not in wanted]
    return _described(found, weights)


def _built(weights: Weights, path: Path, component: Component, found: Inspection) -> nn.Module:
    """The model these weights announce, without memory."""
    declared = declared_config(weights, path)
    if component == "vae":
        config = vae_config(weights.shapes, declared, source=path)
        return AutoencoderCausal3D(config, device="meta", operations=layers)
    if component == "text_encoder":
        return t5_model(t5_config(weights.shapes, declared, path))
    shape = transformer_config(weights.shapes, declared, source=path)
    found.variant = find_variant(shape, source=path).name
    return CogVideoXTransformer3D(shape, device="meta", operations=layers)


def _other(weights: Weights, kind: Any) -> str:
    if is_lora(weights):
        ranks = sorted(set(lora_ranks(weights)))
        told = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]} to {ranks[-1]}" if ranks else "no rank"
        return f"a LoRA of {told} for {len(lora_ranks(weights))} layers"
    return kind.what if kind else "nothing that is known"


def _described(found: Inspection, weights: Weights) -> Inspection:
    numbers = Counter[str]()
    for entry in weights.entries.values():
        name = entry.codec or str(entry.dtype).removeprefix("torch.")
        numbers[name] += torch.Size(entry.shape).numel()
    found.form, found.numbers = weights.form, dict(numbers.most_common())
    found.nbytes = sum(map(entry_bytes, weights.entries.values()))
    return found


def report(found: Inspection) -> str:
    """An inspection as lines for people."""
    lines = [str(found.path), f"  {found.what}" + (f" of the build of {found.variant}" if found.variant else "")]
    lines.append(f"  stored as {', '.join(found.form)}")
    numbers = ", ".join(f"{_count(number)} {_name(name)}" for name, number in found.numbers.items())
    lines.append(f"  {_count(found.parameters)} numbers ({numbers}), {_size(found.nbytes)}")
    if found.fault:
        lines.append(f"  does not open: {found.fault}")
    for told, keys in (("missing", found.missing), ("left over", found.unexpected)):
        if keys:
            lines += [f"  {len(keys)} keys {told}:", *(f"    {key}" for key in keys[:20])]
            lines += [f"    and {len(keys) - 20} more"] if len(keys) > 20 else []
    if not (found.fault or found.missing or found.unexpected) and found.what in [
        row.what for row in COMPONENTS.values()
    ]:
        lines.append("  whole: no key is missing or left over")
    return "\n".join(lines)


def _name(name: str) -> str:
    return f"{name} blocks" if name in CODECS and CODECS[name].block else name


def _size(nbytes: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if nbytes >= size:
            return f"{nbytes / size:.2f} {unit}"
    return f"{nbytes / 1e3:.2f} kB"


def _count(number: int) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.2f}{unit}"
    return str(number)
