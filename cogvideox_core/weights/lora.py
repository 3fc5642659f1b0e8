"""LoRA: small additions to a transformer's layers, from files of every program that writes them.

A layer W becomes W + strength * scale * up @ down. Here the layer stays as it is, in whatever number format, and the
addition is computed beside it: y = W x + strength * scale * up (down x). So several can be stacked, and a strength
changes, or one goes away, without anything being loaded again.

Sources: the keys of PEFT and diffusers, kohya's sd-scripts and VideoX-Fun, and SAT's `lora` mixin.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from math import sqrt
from pathlib import Path
from typing import Any, TypeGuard

from torch import Tensor, nn
from torch.nn import functional as F

from ..kernels.layers import Linear
from .config_json import parse_json, read_json
from .entries import Weights
from .errors import CheckpointError, listed
from .files import open_weights

logger = logging.getLogger("cogvideox")

# What stands before the names of a transformer's modules, one or more of them.
_PREFIXES = {"base_model", "diffusion_model", "model", "module", "transformer"}
_FLAT_PREFIX = re.compile(r"(lora_unet_{1,2}|lora_transformer_|lycoris_)")
_TEXT_ENCODER = re.compile(r"(lora_te|text_encoder)")
# Parts of a key: whose it is, and which of a LoRA's numbers.
_PARTS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("down", re.compile(r"(.+?)[._](?:lora_A(?:\.\w+)??(?:\.weight)?|lora[._]down\.weight)")),
    ("up", re.compile(r"(.+?)[._](?:lora_B(?:\.\w+)??(?:\.weight)?|lora[._]up\.weight)")),
    ("alpha", re.compile(r"(.+)\.alpha")),
    ("magnitude", re.compile(r"(.+?)\.(?:dora_scale|lora_magnitude_vector.*)")),
)
_SAT = re.compile(r"(?:.*\.)?transformer\.layers\.(\d+)\.attention\.(query_key_value|dense)\.matrix_(A|B)\.(\d)")
_SAT_BASE = re.compile(
    r"(.*\.)?(mixins|time_embed|ofs_embed|transformer\.(layers|final_layernorm|word_embeddings|position_embeddings))\..*"
)
_METADATA = "lora_adapter_metadata"  # where diffusers leaves PEFT's configuration


@dataclass
class Addition:
    """What a LoRA adds to one layer: [r, in] and [out, r] (of a convolution: its kernel, and 1x1)."""

    down: Tensor
    up: Tensor
    scale: float

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    def __call__(self, layer: nn.Module, x: Tensor) -> Tensor:
        """up (down x), not yet scaled."""
        down, up = (part.to(x.device, x.dtype) for part in (self.down, self.up))
        if down.ndim == 2:
            return F.linear(F.linear(x, down), up)
        return F.conv2d(F.conv2d(x, down, stride=layer.stride), up)  # type: ignore[arg-type]


@dataclass
class LoRAFile:
    """A LoRA by the module names of a transformer.

    Attributes:
        matched: keys that belong to a module.
        unmatched: keys of modules the transformer does not have, or not of that shape.
        ignored: keys of other things: text encoders, the base model beside a LoRA, DoRA's magnitudes.
    """

    additions: dict[str, Addition]
    matched: list[str] = field(default_factory=list)
    unmatched: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)

    def report(self) -> str:
        """What was done with the keys, in a line."""
        told = [f"{len(self.matched)} keys matched, for {len(self.additions)} layers"]
        told += [f"{len(self.unmatched)} unmatched ({listed(self.unmatched, 3)})"] if self.unmatched else []
        told += [f"{len(self.ignored)} ignored ({listed(self.ignored, 3)})"] if self.ignored else []
        return "; ".join(told)


class LoRA(LoRAFile):
    """A LoRA on a transformer. `strength` can be set at any time; `remove` takes it off."""

    def __init__(self, file: LoRAFile, transformer: nn.Module, strength: float) -> None:
        super().__init__(file.additions, file.matched, file.unmatched, file.ignored)
        self.strength = strength
        modules = dict(transformer.named_modules())
        self._undo = [
            _add_to_result(modules[name], partial(self._add, addition)) for name, addition in self.additions.items()
        ]

    def _add(self, addition: Addition, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        factor = self.strength * addition.scale
        return output + factor * addition(layer, inputs[0]) if factor else output

    def remove(self) -> None:
        """Take it off the transformer."""
        for undo in self._undo:
            undo()
        self._undo.clear()


def _add_to_result(layer: nn.Module, addition: Callable[..., Tensor]) -> Callable[[], None]:
    """Have `addition` called with a layer's result, as a forward hook is. Returns: what takes it away again."""
    if not isinstance(layer, Linear):
        return layer.register_forward_hook(addition).remove
    layer.deltas += (addition,)

    def undo() -> None:
        layer.deltas = tuple(other for other in layer.deltas if other is not addition)

    return undo


def load_lora(transformer: nn.Module, path: str | Path, strength: float = 1.0, *, normalize: bool = False) -> LoRA:
    """Put a LoRA on a transformer, on top of those it has.

    Args:
        path: a file of PEFT or diffusers, kohya or VideoX-Fun, or SAT; or the folder of a PEFT adapter.
        strength: how much of it; 0 for none, negative for its opposite.
        normalize: divide by the rank where the file does not say its scale, which some published files need.
    Returns: the LoRA, which tells `matched`, `unmatched` and `ignored` keys.
    Raises: CheckpointError if the file holds no LoRA, or none for this transformer.
    """
    lora = LoRA(read_lora(path, module_shapes(transformer), normalize=normalize), transformer, strength)
    logger.info("LoRA %s at strength %g: %s", Path(path).name, strength, lora.report())
    return lora


def module_shapes(transformer: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shape of the weight of each linear layer and convolution, by name."""
    return {
        name: tuple(module.weight.shape)
        for name, module in transformer.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    }


def weight_shapes(state_dict: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The same from a transformer's tensors, before it is built."""
    return {
        key.removesuffix(".weight"): tuple(tensor.shape)
        for key, tensor in state_dict.items()
        if key.endswith(".weight") and tensor.ndim > 1
    }


def read_lora(path: str | Path, modules: Mapping[str, tuple[int, ...]], *, normalize: bool = False) -> LoRAFile:
    """The LoRA at `path` for a transformer with these modules; arguments and errors as for `load_lora`.

    Args: modules: the shape of each module's weight by its name.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(
            f"{path} does not exist; give a LoRA's .safetensors file, or the folder of a PEFT adapter"
        )
    weights = open_weights(path)
    names = _Names(modules)
    found: dict[str, dict[str, str]] = {}
    file = LoRAFile({})
    for key in weights:
        place = _sat_place(key) or _place(key, names)
        if place is None or place[1] == "magnitude":
            file.ignored.append(key)
        elif place[0] in modules:
            found.setdefault(place[0], {})[place[1]] = key
        else:
            file.unmatched.append(key)
    declared = _declared(weights, path)
    for name, parts in found.items():
        addition = _addition(weights, parts, modules[name])
        if addition is None:
            file.unmatched.extend(parts.values())
            continue
        for part in ("down", "up"):
            if not getattr(addition, part).float().isfinite().all():
                raise CheckpointError(f"{path} has NaN or infinite numbers for {name}; download it again")
        told = declared.scale(name) if declared else None
        addition.scale = _scale(weights, parts, addition.rank, told, normalize)
        file.additions[name] = addition
        file.matched.extend(parts.values())
    _check(file, path)
    return file


def is_lora(keys: Iterable[str]) -> bool:
    """Whether these are the keys of a LoRA."""
    return any(_SAT.fullmatch(key) or pattern.fullmatch(key) for key in keys for _, pattern in _PARTS[:2])


def lora_ranks(weights: Weights) -> list[int]:
    """The rank of the addition to each layer."""
    down = _PARTS[0][1]
    return [
        weights.shapes[key][0]
        for key in weights
        if down.fullmatch(key) or ((match := _SAT.fullmatch(key)) and match[3] == "A")
    ]


class _Names:
    """Modules by every name that files give them."""

    def __init__(self, modules: Iterable[str]) -> None:
        self.known = set(modules)
        self.flat = {name.replace(".", "_"): name for name in self.known}

    def resolve(self, name: str) -> str:
        """The module that is meant; the name itself if there is none."""
        if prefix := _FLAT_PREFIX.match(name):
            return self.flat.get(name[prefix.end() :], name)
        parts = name.replace(".processor.", ".").split(".")
        while parts[0] in _PREFIXES and ".".join(parts) not in self.known:
            parts = parts[1:] or [""]
        bare = ".".join(parts)
        return f"{bare}.0" if f"{bare}.0" in self.known else bare  # older diffusers: to_out for to_out.0


def _place(key: str, names: _Names) -> tuple[str, str] | None:
    """The module and the part of a LoRA a key stands for; None for what is no part of one of a transformer."""
    if _TEXT_ENCODER.match(key):
        return None
    for part, pattern in _PARTS:
        if match := pattern.fullmatch(key):
            return names.resolve(match[1]), part
    return None if _SAT_BASE.fullmatch(key) else (key, "strange")


def _sat_place(key: str) -> tuple[str, str] | None:
    match = _SAT.fullmatch(key)
    if match is None:
        return None
    block, layer, matrix, index = match.groups()
    name = "to_out.0" if layer == "dense" else f"to_{'qkv'[int(index)]}" if int(index) < 3 else "?"
    return f"transformer_blocks.{block}.attn1.{name}", {"A": "down, SAT", "B": "up"}[matrix]


def _addition(weights: Weights, parts: Mapping[str, str], shape: tuple[int, ...]) -> Addition | None:
    """The two matrices; None if one is missing or they do not make a matrix of that shape."""
    down_key, up_key = parts.get("down") or parts.get("down, SAT"), parts.get("up")
    if down_key is None or up_key is None:
        return None
    down, up = weights.shapes[down_key], weights.shapes[up_key]
    if (
        len(down) < 2
        or len(up) < 2
        or not down[0]
        or down[0] != up[1]
        or (up[0], *down[1:]) != shape
        or set(up[2:]) - {1}
    ):
        return None
    return Addition(weights[down_key], weights[up_key], 1.0)


def _scale(weights: Weights, parts: Mapping[str, str], rank: int, declared: float | None, normalize: bool) -> float:
    """alpha / r; what the file declares; 1 / r for SAT's; else 1, or 1 / r if that is asked for."""
    if "alpha" in parts:
        alpha = weights[parts["alpha"]].float().flatten()
        if alpha.numel() != 1 or not alpha.isfinite().all():
            raise CheckpointError(
                f"{weights.path} has no single finite number under {parts['alpha']}; download it again"
            )
        return alpha.item() / rank
    if declared is not None:
        return declared
    return 1 / rank if normalize or "down, SAT" in parts else 1.0


@dataclass(frozen=True)
class _Declared:
    """What PEFT's configuration says about scales; patterns are the ends of modules' names, as regular expressions."""

    rank: float
    alpha: float
    rank_pattern: dict[str, float]
    alpha_pattern: dict[str, float]
    use_rslora: bool

    def scale(self, module: str) -> float:
        rank, alpha = (
            next((value for pattern, value in patterns.items() if re.match(rf"(.*\.)?({pattern})$", module)), default)
            for patterns, default in ((self.rank_pattern, self.rank), (self.alpha_pattern, self.alpha))
        )
        return alpha / (sqrt(rank) if self.use_rslora else rank)


def _declared(weights: Weights, path: Path) -> _Declared | None:
    """PEFT's configuration: in the header, where diffusers leaves it, or beside the adapter; None if there is none.

    Raises: CheckpointError if it is none.
    """
    beside = (path if path.is_dir() else path.parent) / "adapter_config.json"
    if _METADATA in weights.metadata:
        place = f"the {_METADATA} in the header of {path}"
        told = parse_json(weights.metadata[_METADATA], place)
        told = {key.removeprefix("transformer."): value for key, value in told.items()}
    elif beside.is_file() and (path.is_dir() or path.stem == "adapter_model"):
        place, told = str(beside), read_json(beside)
    else:
        return None
    rank, alpha = told.get("r"), told.get("lora_alpha")
    if not _is_number(rank) or not _is_number(alpha):
        return None
    patterns = {}
    for name in ("rank_pattern", "alpha_pattern"):
        patterns[name] = told.get(name) or {}
        if not isinstance(patterns[name], dict) or not all(map(_is_number, patterns[name].values())):
            raise CheckpointError(f"{place} has no number for each name in its {name}; download the file again")
    return _Declared(rank, alpha, **patterns, use_rslora=bool(told.get("use_rslora")))


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _check(file: LoRAFile, path: Path) -> None:
    if file.additions:
        if file.ignored and any("dora" in key or "magnitude" in key for key in file.ignored):
            logger.warning("%s is a DoRA; its magnitudes are left out, as diffusers leaves them out", path.name)
        return
    keys = file.unmatched or file.ignored
    if not is_lora(keys):
        raise CheckpointError(f"{path} holds no LoRA: its keys begin with {listed(keys, 3)}; give another file")
    raise CheckpointError(
        f"{path} holds a LoRA of which nothing fits this transformer (its keys begin with {listed(keys, 3)}); it was "
        "made for another model, load that one or give another LoRA"
    )
