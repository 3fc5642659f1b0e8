"""LoRA: low-rank deltas of a transformer's weights, from files of every program that writes them.

A weight W becomes W + strength * scale * up @ down. Here W stays as it is, quantized or not, and the delta is
multiplied on its own: y = W x + strength * scale * up (down x). So several can be stacked, and a strength can change or
a LoRA be removed without loading anything again.

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
from .entries import OpenWeights
from .errors import CheckpointError, listed
from .files import open_weights
from .places.names import locate

logger = logging.getLogger("cogvideox")

# Prefixes of the names of a transformer's modules, one or more of them.
_PREFIXES = {"base_model", "diffusion_model", "model", "module", "transformer"}
_FLAT_PREFIX = re.compile(r"(lora_unet_{1,2}|lora_transformer_|lycoris_)")
_TEXT_ENCODER = re.compile(r"(lora_te|text_encoder)")
# Which part of a LoRA a key is: the first group is the name of the module.
_PARTS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("down", re.compile(r"(.+?)[._](?:lora_A(?:\.\w+)??(?:\.weight)?|lora[._]down\.weight)")),
    ("up", re.compile(r"(.+?)[._](?:lora_B(?:\.\w+)??(?:\.weight)?|lora[._]up\.weight)")),
    ("alpha", re.compile(r"(.+)\.alpha")),
    ("magnitude", re.compile(r"(.+?)\.(?:dora_scale|lora_magnitude_vector.*)")),
)
_SAT = re.compile(r"(?:.*\.)?transformer\.layers\.(\d+)\.attention\.(query_key_value|dense)\.matrix_(A|B)\.(\d)")
_SAT_BASE = re.compile(
    r"(first_stage_model|conditioner)\..*|"
    r"(.*\.)?(mixins|time_embed|ofs_embed|transformer\.(layers|final_layernorm|word_embeddings|position_embeddings))\..*"
)
_METADATA = "lora_adapter_metadata"  # the name under which diffusers stores PEFT's configuration in the header


@dataclass
class LoRADelta:
    """What a LoRA changes of one layer's weight: strength * scale * up @ down.

    Attributes:
        down: [r, in]; of a convolution [r, in, rows, columns], its kernel.
        up: [out, r]; of a convolution [out, r, 1, 1].
        scale: what the file says the product is to be multiplied by.
    """

    down: Tensor
    up: Tensor
    scale: float

    @property
    def rank(self) -> int:
        """r, the rank of the product."""
        return self.down.shape[0]

    def __call__(self, layer: nn.Module, x: Tensor) -> Tensor:
        """up (down x), not yet scaled: x [..., in] to [..., out], or [B, in, H, W] to [B, out, h, w]."""
        down, up = (part.to(x.device, x.dtype) for part in (self.down, self.up))
        if down.ndim == 2:
            return F.linear(F.linear(x, down), up)
        return F.conv2d(F.conv2d(x, down, stride=layer.stride), up)  # type: ignore[arg-type]


@dataclass
class LoRAFile:
    """A LoRA that was read for a transformer and is on none yet.

    Attributes:
        deltas: by the names of the transformer's modules.
        matched: keys that belong to a module.
        unmatched: keys of modules that the transformer does not have, or has in another shape.
        ignored: keys of other things: text encoders, a base model in the same file, DoRA's magnitudes.
    """

    deltas: dict[str, LoRADelta]
    matched: list[str] = field(default_factory=list)
    unmatched: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)

    def report(self) -> str:
        """How many keys matched, were not, and were ignored, in a line."""
        parts = [f"{len(self.matched)} keys matched, for {len(self.deltas)} layers"]
        parts += [f"{len(self.unmatched)} unmatched ({listed(self.unmatched, 3)})"] if self.unmatched else []
        parts += [f"{len(self.ignored)} ignored ({listed(self.ignored, 3)})"] if self.ignored else []
        return "; ".join(parts)

    def apply(self, transformer: nn.Module, strength: float = 1.0) -> LoRA:
        """Put the LoRA on the transformer it was read for, on top of those that it has.

        Args: strength: what the deltas are multiplied by; 0 for no effect, negative for the opposite.
        """
        return LoRA(self, transformer, strength)


class LoRA:
    """A LoRA on a transformer. `strength` can be set at any time; `remove` takes it off.

    Attributes:
        file: what was read.
        strength: what its deltas are multiplied by.
        matched, unmatched, ignored: the keys of the file, as in `LoRAFile`.
    """

    def __init__(self, file: LoRAFile, transformer: nn.Module, strength: float) -> None:
        self.file = file
        self.strength = strength
        self.matched, self.unmatched, self.ignored = file.matched, file.unmatched, file.ignored
        modules = dict(transformer.named_modules())
        self._undo = [_add_delta(modules[name], partial(self._add, delta)) for name, delta in file.deltas.items()]

    def report(self) -> str:
        """How many keys matched, were not, and were ignored, in a line."""
        return self.file.report()

    def remove(self) -> None:
        """Take it off the transformer."""
        for undo in self._undo:
            undo()
        self._undo.clear()

    def _add(self, delta: LoRADelta, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """The layer's result with the delta's: output + strength * scale * up (down x)."""
        factor = self.strength * delta.scale
        return output + factor * delta(layer, inputs[0]) if factor else output


def _add_delta(layer: nn.Module, add: Callable[..., Tensor]) -> Callable[[], None]:
    """Have `add` called with a layer's result, as a forward hook is. Returns: what undoes it."""
    if not isinstance(layer, Linear):
        return layer.register_forward_hook(add).remove
    layer.deltas += (add,)

    def undo() -> None:
        layer.deltas = tuple(other for other in layer.deltas if other is not add)

    return undo


def load_lora(transformer: nn.Module, path: str | Path, strength: float = 1.0, *, divide_by_rank: bool = False) -> LoRA:
    """Read a LoRA and put it on a transformer, on top of those that it has.

    Args:
        path: a file of PEFT or diffusers, kohya or VideoX-Fun, or SAT; or the folder of a PEFT adapter; or the name of
            one, see `weights/places/names.py`.
        strength: what its deltas are multiplied by; 0 for no effect, negative for the opposite.
        divide_by_rank: where the file does not say its scale, take 1 / rank and not 1, as some published files need.
    Returns: the LoRA, with the `matched`, `unmatched` and `ignored` keys of the file.
    Raises: CheckpointError if the file holds no LoRA, or none for this transformer.
    """
    path = locate(path, "lora")
    lora = read_lora(path, module_shapes(transformer), divide_by_rank=divide_by_rank).apply(transformer, strength)
    logger.info("LoRA %s at strength %g: %s", Path(path).name, strength, lora.report())
    return lora


def module_shapes(transformer: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shape of the weight of each Linear and Conv2d of a transformer, by the layer's name."""
    return {
        name: tuple(module.weight.shape)
        for name, module in transformer.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    }


def weight_shapes(state_dict: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The same shapes from a transformer's tensors by key, [...] each, before the transformer is built."""
    return {
        key.removesuffix(".weight"): tuple(tensor.shape)
        for key, tensor in state_dict.items()
        if key.endswith(".weight") and tensor.ndim > 1
    }


def read_lora(path: str | Path, modules: Mapping[str, tuple[int, ...]], *, divide_by_rank: bool = False) -> LoRAFile:
    """Read a LoRA for a transformer; arguments and errors as for `load_lora`.

    Args: modules: the shape of each module's weight by its name; see `module_shapes` and `weight_shapes`.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(
            f"{path} does not exist; give a LoRA's .safetensors file, or the folder of a PEFT adapter"
        )
    weights = open_weights(path)
    file = LoRAFile({})
    keys_of = _sort_keys(weights, modules, file)
    declared = _declared_scales(weights, path)
    for name, keys in keys_of.items():
        delta = _read_delta(weights, keys, modules[name])
        if delta is None:
            file.unmatched.extend(keys.values())
            continue
        _check_finite(delta, name, path)
        delta.scale = _scale(weights, keys, delta.rank, declared.scale(name) if declared else None, divide_by_rank)
        file.deltas[name] = delta
        file.matched.extend(keys.values())
    _check_any_matched(file, path)
    return file


def _sort_keys(
    weights: OpenWeights, modules: Mapping[str, tuple[int, ...]], file: LoRAFile
) -> dict[str, dict[str, str]]:
    """The keys of each module by their parts of a LoRA; all others are listed in `file`."""
    names = _Names(modules)
    keys_of: dict[str, dict[str, str]] = {}
    for key in weights:
        found = _parse_sat_key(key) or _parse_key(key, names)
        if found is None or found[1] == "magnitude":
            file.ignored.append(key)
        elif found[0] in modules:
            keys_of.setdefault(found[0], {})[found[1]] = key
        else:
            file.unmatched.append(key)
    return keys_of


def _check_finite(delta: LoRADelta, name: str, path: Path) -> None:
    for part in (delta.down, delta.up):
        if not part.float().isfinite().all():
            raise CheckpointError(f"{path} has NaN or infinite numbers for {name}; download it again")


def is_lora(keys: Iterable[str]) -> bool:
    """Whether these are the keys of a LoRA."""
    return any(_SAT.fullmatch(key) or _part_of(key) in ("down", "up") for key in keys)


def lora_ranks(weights: OpenWeights) -> list[int]:
    """The rank of each layer's delta."""
    down = _PARTS[0][1]
    return [
        weights.shapes[key][0]
        for key in weights
        if down.fullmatch(key) or ((match := _SAT.fullmatch(key)) and match[3] == "A")
    ]


class _Names:
    """Modules by the names that files give them."""

    def __init__(self, modules: Iterable[str]) -> None:
        self.known = set(modules)
        self.flat = {name.replace(".", "_"): name for name in self.known}

    def resolve(self, name: str) -> str:
        """The name of the module that a file calls `name`; `name` itself if there is no such module."""
        if prefix := _FLAT_PREFIX.match(name):
            return self.flat.get(name[prefix.end() :], name)
        parts = name.replace(".processor.", ".").split(".")
        while parts[0] in _PREFIXES and ".".join(parts) not in self.known:
            parts = parts[1:] or [""]
        bare = ".".join(parts)
        return f"{bare}.0" if f"{bare}.0" in self.known else bare  # older diffusers: to_out for to_out.0


def _part_of(key: str) -> str | None:
    """The part of a LoRA that a key is, by its ending; None if it has no such ending."""
    return next((part for part, pattern in _PARTS if pattern.fullmatch(key)), None)


def _parse_key(key: str, names: _Names) -> tuple[str, str] | None:
    """The module a key is for, and which part of its LoRA it is; None if it is not about a transformer's LoRA."""
    if _TEXT_ENCODER.match(key):
        return None
    for part, pattern in _PARTS:
        if match := pattern.fullmatch(key):
            return names.resolve(match[1]), part
    return None if _SAT_BASE.fullmatch(key) else (key, "unknown")


def _parse_sat_key(key: str) -> tuple[str, str] | None:
    """The same for the keys of SAT, which numbers the parts of an attention's one matrix; None for other keys."""
    match = _SAT.fullmatch(key)
    if match is None:
        return None
    block, layer, matrix, index = match.groups()
    name = "to_out.0" if layer == "dense" else f"to_{'qkv'[int(index)]}" if int(index) < 3 else "?"
    return f"transformer_blocks.{block}.attn1.{name}", {"A": "down, SAT", "B": "up"}[matrix]


def _read_delta(weights: OpenWeights, keys: Mapping[str, str], shape: tuple[int, ...]) -> LoRADelta | None:
    """The two matrices; None if one is missing, or their product is not of that shape."""
    down_key, up_key = keys.get("down") or keys.get("down, SAT"), keys.get("up")
    if down_key is None or up_key is None or not _fit(weights.shapes[down_key], weights.shapes[up_key], shape):
        return None
    return LoRADelta(weights[down_key], weights[up_key], 1.0)


def _fit(down: tuple[int, ...], up: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether down [r, in, ...] and up [out, r, 1, ...] make a weight [out, in, ...] of that shape."""
    if len(down) < 2 or len(up) < 2:
        return False
    rank = down[0]
    return 0 < rank == up[1] and (up[0], *down[1:]) == shape and set(up[2:]) <= {1}


def _scale(
    weights: OpenWeights, keys: Mapping[str, str], rank: int, declared: float | None, divide_by_rank: bool
) -> float:
    """The file's alpha / r; else what PEFT's configuration declares; else 1 / r for SAT, or if asked for; else 1."""
    if "alpha" in keys:
        alpha = weights[keys["alpha"]].float().flatten()
        if alpha.numel() != 1 or not alpha.isfinite().all():
            raise CheckpointError(
                f"{weights.path} has no single finite number under {keys['alpha']}; download it again"
            )
        return alpha.item() / rank
    if declared is not None:
        return declared
    return 1 / rank if divide_by_rank or "down, SAT" in keys else 1.0


@dataclass(frozen=True)
class _DeclaredScales:
    """What PEFT's configuration says of scales. Patterns are regular expressions for the ends of modules' names."""

    rank: float
    alpha: float
    rank_pattern: dict[str, float]
    alpha_pattern: dict[str, float]
    use_rslora: bool

    def scale(self, module: str) -> float:
        """alpha / r of a module, or alpha / sqrt(r) for rank-stabilized LoRA."""
        rank = self._of_module(module, self.rank_pattern, self.rank)
        alpha = self._of_module(module, self.alpha_pattern, self.alpha)
        return alpha / (sqrt(rank) if self.use_rslora else rank)

    @staticmethod
    def _of_module(module: str, patterns: Mapping[str, float], default: float) -> float:
        """The value of the first pattern that fits."""
        fitting = (value for pattern, value in patterns.items() if re.match(rf"(.*\.)?({pattern})$", module))
        return next(fitting, default)


def _declared_scales(weights: OpenWeights, path: Path) -> _DeclaredScales | None:
    """PEFT's configuration, from the file's header or adapter_config.json next to it; None if there is none.

    Raises: CheckpointError if it has no numbers where there must be numbers.
    """
    adapter_config = (path if path.is_dir() else path.parent) / "adapter_config.json"
    if _METADATA in weights.metadata:
        source = f"the {_METADATA} in the header of {path}"
        content = parse_json(weights.metadata[_METADATA], source)
        content = {key.removeprefix("transformer."): value for key, value in content.items()}
    elif adapter_config.is_file() and (path.is_dir() or path.stem == "adapter_model"):
        source, content = str(adapter_config), read_json(adapter_config)
    else:
        return None
    rank, alpha = content.get("r"), content.get("lora_alpha")
    if not _is_number(rank) or not _is_number(alpha):
        return None
    patterns = {}
    for name in ("rank_pattern", "alpha_pattern"):
        patterns[name] = content.get(name) or {}
        if not isinstance(patterns[name], dict) or not all(map(_is_number, patterns[name].values())):
            raise CheckpointError(f"{source} has no number for each name in its {name}; download the file again")
    return _DeclaredScales(rank, alpha, **patterns, use_rslora=bool(content.get("use_rslora")))


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _check_any_matched(file: LoRAFile, path: Path) -> None:
    if file.deltas:
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
