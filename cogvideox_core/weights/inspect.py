"""Inspecting weight files: which model, in which form and number formats, and whether it is complete.

Only headers are read.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import torch
from torch import nn

from ..models.text_encoder import t5_model
from ..models.transformer.model import CogVideoXTransformer3D
from ..models.vae.autoencoder import AutoencoderCausal3D
from . import empty_layers as layers
from .adapter_kinds import BIASES, kind_of
from .adapter_names import is_adapter, parts_of_layers
from .codecs import GGML
from .components import find_config, open_component
from .detect import find_variant, transformer_config, vae_config
from .diffusers_folder import folder_variant, pipeline_folder
from .entries import OpenWeights
from .errors import CheckpointError
from .files import open_weights
from .recognize import COMPONENTS, Component, components_in, recognize
from .t5 import t5_config
from .writing import entry_bytes


@dataclass
class Inspection:
    """What headers show of weights.

    Attributes:
        what: the kind of weights, with an article.
        variant: for a transformer, the name of the released model it is built like.
        form: how they are stored: file endings, codecs, whose key names.
        numbers: how many numbers there are of each dtype or codec.
        nbytes: of all numbers, without scales.
        missing: keys that a complete model of this build has and they lack.
        unexpected: keys of theirs that such a model does not have.
        fault: a sentence on why they do not open; None if they do.
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
    """Inspect a weight file, a component's folder, or every component of a whole folder or a file that holds several.

    Raises: CheckpointError if nothing can be opened at all.
    """
    path = Path(path)
    if path.is_dir() and pipeline_folder(path) == path:
        folders = [path / name for name in COMPONENTS if (path / name).is_dir()]
        return list(chain.from_iterable(map(_inspect, folders)))
    return _inspect(path)


def _inspect(path: Path) -> list[Inspection]:
    weights = open_weights(path)
    components = components_in(weights)
    if not components:
        return [_described(Inspection(path, _other(weights)), weights)]
    return [_inspect_component(weights, path, component) for component in components]


def _inspect_component(weights: OpenWeights, path: Path, component: Component) -> Inspection:
    found = Inspection(path, COMPONENTS[component].what)
    try:
        weights = open_component(path, component)
        model = _built(weights, path, component, found)
    except CheckpointError as error:
        found.fault = str(error)
        return _described(found, weights)
    wanted = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    tied = {"encoder.embed_tokens.weight"} if component == "text_encoder" else set()  # the same as shared.weight
    found.missing = [key for key in wanted if key not in weights and key not in tied]
    found.unexpected = [key for key in weights if key not in wanted]
    return _described(found, weights)


def _built(weights: OpenWeights, path: Path, component: Component, found: Inspection) -> nn.Module:
    """A model of these weights' build, on the meta device; notes the variant of a transformer in `found`."""
    declared = find_config(weights, path)
    if component == "vae":
        config = vae_config(weights.shapes, declared, source=path)
        return AutoencoderCausal3D(config, device="meta", operations=layers)
    if component == "text_encoder":
        return t5_model(t5_config(weights.shapes, declared, path))
    shape = transformer_config(weights.shapes, declared, source=path)
    found.variant = folder_variant(find_variant(shape, source=path), path).name
    return CogVideoXTransformer3D(shape, device="meta", operations=layers)


def _other(weights: OpenWeights) -> str:
    """What weights are that are no component of a model."""
    if is_adapter(weights):
        return _adapter(weights)
    kind = recognize(weights)
    return kind.what if kind else "nothing that is known"


def _adapter(weights: OpenWeights) -> str:
    """An adapter in words: `a LoRA of rank 4 for 8 layers`, `an adapter (LoKr) for 8 layers`."""
    layers = parts_of_layers(weights).values()
    kinds = [kind_of(parts.keys() - {"alpha"} - BIASES.keys()) for parts in layers]
    names = list(dict.fromkeys(kind.name for kind in kinds if kind))
    if not names:
        return "an adapter of a kind that is not read"
    if names != ["LoRA"]:
        return f"an adapter ({', '.join(names)}) for {len(layers)} layers"
    ranks = [weights.shapes[parts["down"]][0] for parts in layers if "down" in parts]
    return f"a LoRA of {_rank_range(ranks)} for {len(ranks)} layers"


def _rank_range(ranks: list[int]) -> str:
    if not ranks:
        return "no rank"
    return f"rank {ranks[0]}" if min(ranks) == max(ranks) else f"ranks {min(ranks)} to {max(ranks)}"


def _described(found: Inspection, weights: OpenWeights) -> Inspection:
    """`found`, with how the weights are stored."""
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
    for fault, keys in (("missing", found.missing), ("left over", found.unexpected)):
        if keys:
            lines += [f"  {len(keys)} keys {fault}:", *(f"    {key}" for key in keys[:20])]
            lines += [f"    and {len(keys) - 20} more"] if len(keys) > 20 else []
    is_component = any(found.what == kind.what for kind in COMPONENTS.values())
    if is_component and not (found.fault or found.missing or found.unexpected):
        lines.append("  complete: no key is missing or left over")
    return "\n".join(lines)


def _name(name: str) -> str:
    return f"{name} blocks" if name in GGML else name


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
