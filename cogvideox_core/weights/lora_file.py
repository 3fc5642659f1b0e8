"""Reading a file of a LoRA or another adapter for a transformer: which layers it changes, and how.

`adapter_names.py` knows which module and part a key is for, `adapter_kinds.py` what parts make, `adapters.py` what that
computes, `adapter_scales.py` what it is multiplied by, and `applied_lora.py` how a transformer's layers take it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import torch
from torch import Tensor, nn

from .adapter_kinds import LayerAdapter, NotRead, Parts, build
from .adapter_names import Names, holds_base_model, is_adapter, is_of_sat
from .adapter_scales import PeftConfig, Scale, described, peft_config, scale_of
from .adapters import Delta, Sum
from .applied_lora import LoRA
from .entries import OpenWeights
from .errors import CheckpointError, listed
from .files import open_weights

Shapes = Mapping[str, tuple[int, ...]]
"""The shape of the weight of each module of a transformer, by the module's name."""

_READ = "LoRA, DoRA, LoHa, LoKr, GLoRA, OFT, BOFT, IA3 and differences are, give one of these"
_MISFITS = (LookupError, RuntimeError, TypeError, ValueError, ArithmeticError)  # of tensors that do not fit each other


@dataclass
class LoRAFile:
    """A LoRA, or another adapter, that was read for a transformer and is on none yet.

    Attributes:
        deltas: what it changes of weights, by the names of the transformer's modules.
        biases: what it changes of their biases.
        kinds: how many layers have an adapter of each kind.
        scales: what each layer's is multiplied by, by the module's name; without those that nothing scales.
        matched: keys that belong to a module.
        unmatched: keys of modules that the transformer does not have, or has in another shape.
        ignored: keys of other things: text encoders, a base model in the same file.
    """

    deltas: dict[str, Delta] = field(default_factory=dict)
    biases: dict[str, Delta] = field(default_factory=dict)
    kinds: Counter[str] = field(default_factory=Counter)
    scales: dict[str, Scale] = field(default_factory=dict)
    matched: list[str] = field(default_factory=list)
    unmatched: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)

    @property
    def layers(self) -> list[str]:
        """The names of the modules that it changes."""
        return list(self.deltas | self.biases)

    @property
    def is_sum(self) -> bool:
        """Whether it only adds to the results of layers, so that it needs no weights that can be read."""
        return not self.biases and all(isinstance(delta, Sum) for delta in self.deltas.values())

    def report(self) -> str:
        """How many keys matched, were not, and were ignored; which adapter it is, and at which scale: in a line."""
        parts = [f"{len(self.matched)} keys matched, for {len(self.layers)} layers"]
        parts += [f"{len(self.unmatched)} unmatched ({listed(self.unmatched, 3)})"] if self.unmatched else []
        parts += [f"{len(self.ignored)} ignored ({listed(self.ignored, 3)})"] if self.ignored else []
        return "; ".join([*parts, f"{' and '.join(self.kinds)} {described(self.scales.values())}"])

    def apply(self, transformer: nn.Module, strength: float = 1.0) -> LoRA:
        """Put it on the transformer it was read for, on top of what is on it.

        Args: strength: how much of it: 0 for none, 1 as trained, negative for its opposite.
        Raises: ValueError if it cannot go onto the transformer's quantized weights; nothing is changed then.
        """
        return LoRA(self, transformer, strength)


def read_lora(path: str | Path, modules: Shapes, *, divide_by_rank: bool = False) -> LoRAFile:
    """Read an adapter for a transformer.

    Args:
        path: a file of PEFT or diffusers, kohya or VideoX-Fun, LyCORIS, DiffSynth-Studio or SAT; or the folder of a
            PEFT adapter.
        modules: see `lora.module_shapes` and `lora.weight_shapes`.
        divide_by_rank: where the file does not say its scale, take 1 / rank and not 1, as some published files need.
    Raises: CheckpointError if the file holds no adapter, or none for this transformer.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(
            f"{path} does not exist; give a LoRA's .safetensors file, or the folder of a PEFT adapter"
        )
    weights = open_weights(path)
    config = peft_config(weights, path)
    if not is_adapter(weights):
        raise CheckpointError(_what_it_is(weights, config, path))
    reading = _Reading(weights, path, modules, config, divide_by_rank)
    reading.run()
    return reading.file


def _what_it_is(weights: OpenWeights, config: PeftConfig, path: Path) -> str:
    """The sentence on a file without a single key of an adapter that is read."""
    if config.kind:
        return f"{path} holds an adapter of PEFT's kind {config.kind}, which is not read; {_READ}"
    return f"{path} holds no LoRA: its keys begin with {listed(weights, 3)}; give another file"


@dataclass
class _Reading:
    """A file while it is read for a transformer.

    Attributes:
        file: what was read of it so far.
        fault: why the first layer that the transformer has did not fit; empty if all did.
    """

    weights: OpenWeights
    path: Path
    modules: Shapes
    config: PeftConfig
    divide_by_rank: bool
    file: LoRAFile = field(default_factory=LoRAFile)
    fault: str = ""

    def run(self) -> None:
        """Read all layers. Raises: CheckpointError if not one fits, or one is damaged or of a kind that is not read."""
        for name, keys in self._sorted_keys().items():
            if self._fits(name, keys):
                self._keep(name, keys)
            else:
                self.file.unmatched.extend(keys.values())
        if not self.file.layers:
            raise CheckpointError(
                f"{self.path} holds a LoRA of which nothing fits this transformer (its keys begin with "
                f"{listed(self.file.unmatched or self.file.ignored, 3)}{self.fault}); it was made for another model, "
                "load that one or give another LoRA"
            )

    def _sorted_keys(self) -> dict[str, dict[str, str]]:
        """The keys of each module by the parts that they are; all others are listed in `file`."""
        names, with_base = Names(self.modules), holds_base_model(self.weights)
        keys_of: dict[str, dict[str, str]] = {}
        for key in self.weights:
            name, part = names.parse(key) or ("", "")
            if not name or (with_base and part in ("weight", "bias")):
                self.file.ignored.append(key)
            elif name not in self.modules:
                self.file.unmatched.append(key)
            elif part in keys_of.setdefault(name, {}):
                raise CheckpointError(
                    f"{self.path} has two adapters for {name} ({keys_of[name][part]} and {key}); save them one by one"
                )
            else:
                keys_of[name][part] = key
        return keys_of

    def _fits(self, name: str, keys: Mapping[str, str]) -> bool:
        """Whether the parts of a module fit each other and the module, by their shapes: nothing large is read."""
        missing = ""
        try:
            if self._layer(name, keys, on_meta=True).fits(self.modules[name]):
                return True
        except CheckpointError:
            raise
        except NotRead as error:
            raise CheckpointError(f"{self.path} has {error} for {name}, which is not read; {_READ}") from error
        except _MISFITS as error:
            missing = f" and no {error.args[0]}" if isinstance(error, KeyError) else ""
        has = ", ".join(f"{part} {list(self.weights.shapes[key])}" for part, key in keys.items())
        self.fault = self.fault or f"; for {name} {list(self.modules[name])} it has {has}{missing}"
        return False

    def _keep(self, name: str, keys: Mapping[str, str]) -> None:
        """Read the parts of a module that fits into `file`."""
        layer = self._layer(name, keys)
        self.file.kinds[layer.kind] += 1
        self.file.deltas |= {name: layer.weight} if layer.weight else {}
        self.file.biases |= {name: layer.bias} if layer.bias else {}
        self.file.scales |= {name: layer.scale} if layer.scale else {}
        self.file.matched.extend(keys.values())

    def _layer(self, name: str, keys: Mapping[str, str], *, on_meta: bool = False) -> LayerAdapter:
        """What the parts of a module make; on the meta device, of their shapes. Raises: as `adapter_kinds.build`."""
        is_sat = any(map(is_of_sat, keys.values()))
        alpha = self._number(keys["alpha"]) if "alpha" in keys else None
        read = self._empty if on_meta else self._finite
        tensors = {part: read(key) for part, key in keys.items() if part != "alpha"}
        options = {"alpha": alpha, "divide_by_rank": self.divide_by_rank, "is_sat": is_sat}
        return build(
            Parts(tensors, alpha, self.config.content, lambda rank: scale_of(name, rank, self.config, **options))
        )

    def _number(self, key: str) -> float:
        number = self.weights[key].float().flatten()
        if number.numel() != 1 or not number.isfinite().all():
            raise CheckpointError(f"{self.path} has no single finite number under {key}; download it again")
        return number.item()

    def _empty(self, key: str) -> Tensor:
        """A tensor of the shape [...] of the one in the file, without its numbers; a single number is read."""
        shape = self.weights.shapes[key]
        return torch.empty(shape, device="meta") if prod(shape) > 1 else self.weights[key]

    def _finite(self, key: str) -> Tensor:
        tensor = self.weights[key]
        if not tensor.is_floating_point() and tensor.numel() > 1:
            raise CheckpointError(f"{self.path} has whole numbers under {key}; download it again")
        if not tensor.float().isfinite().all():
            raise CheckpointError(f"{self.path} has NaN or infinite numbers under {key}; download it again")
        return tensor
