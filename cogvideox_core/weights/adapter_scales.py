"""The scale of an adapter: alpha / r, if the file or PEFT's configuration says it; else what is taken in its place."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import sqrt
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from .config_json import parse_json, read_json
from .entries import OpenWeights
from .errors import CheckpointError
from .folder_files import weights_in

_METADATA = "lora_adapter_metadata"  # the name under which diffusers stores PEFT's configuration in the header
_CONFIG = "adapter_config.json"
_OFFICIAL = "adapter_model"  # PEFT's own name of the file that its configuration is about


class Scale(NamedTuple):
    """What a delta is multiplied by, and where that is from, in words."""

    value: float
    source: str


def described(scales: Iterable[Scale]) -> str:
    """The scales of several layers in a few words: `at scale 0.5 (alpha 2, rank 4)`."""
    counts = Counter(scales)
    if not counts:
        return "without a scale"
    if len(counts) == 1:
        scale = next(iter(counts))
        return f"at scale {scale.value:g} ({scale.source})"
    most = [f"{scale.value:g} ({scale.source}) for {count}" for scale, count in counts.most_common(3)]
    more = f", and {len(counts) - len(most)} others" if len(counts) > len(most) else ""
    return f"at scales {', '.join(most)} layers{more}"


@dataclass(frozen=True)
class PeftConfig:
    """What PEFT's configuration says of an adapter. Patterns are regular expressions for the ends of modules' names.

    Attributes:
        where: "adapter_config.json" or "the file's header".
        kind: PEFT's name of the kind of adapter, such as LOKR; empty if it says none.
        rank, alpha: None if it has no such numbers.
        content: everything it says.
    """

    where: str = ""
    kind: str = ""
    rank: float | None = None
    alpha: float | None = None
    rank_pattern: Mapping[str, float] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    use_rslora: bool = False
    content: Mapping[str, Any] = field(default_factory=dict)

    def scale(self, module: str) -> Scale | None:
        """alpha / r of a module, or alpha / sqrt(r) for rank-stabilized LoRA; None if alpha or r is not known."""
        if self.rank is None or self.alpha is None:
            return None
        rank, alpha = self.rank_of(module), _of_module(module, self.alpha_pattern, self.alpha)
        divisor = sqrt(rank) if self.use_rslora else rank
        stabilized = ", rank-stabilized" if self.use_rslora else ""
        return Scale(alpha / divisor, f"alpha {alpha:g}, rank {rank:g}{stabilized}, by {self.where}")

    def rank_of(self, module: str) -> float:
        """r of a module. Only where it is known at all."""
        assert self.rank is not None
        return _of_module(module, self.rank_pattern, self.rank)


def _of_module(module: str, patterns: Mapping[str, float], default: float) -> float:
    """The value of the first pattern that fits."""
    fitting = (value for pattern, value in patterns.items() if re.match(rf"(.*\.)?({pattern})$", module))
    return next(fitting, default)


def peft_config(weights: OpenWeights, path: Path) -> PeftConfig:
    """PEFT's configuration, from the file's header or adapter_config.json next to it; an empty one if there is none.

    A configuration is about the file with PEFT's own name; about one that was renamed only if no such file is there.
    Raises: CheckpointError if it has no numbers where there must be numbers.
    """
    if _METADATA in weights.metadata:
        source = f"the {_METADATA} in the header of {path}"
        content = parse_json(weights.metadata[_METADATA], source)
        return _checked({key.removeprefix("transformer."): value for key, value in content.items()}, "header", source)
    folder = (weights_in(path) if path.is_dir() else path).parent
    is_meant = path.is_dir() or path.stem == _OFFICIAL or not any(folder.glob(f"{_OFFICIAL}.*"))
    if is_meant and (folder / _CONFIG).is_file():
        return _checked(read_json(folder / _CONFIG), _CONFIG, str(folder / _CONFIG))
    return PeftConfig()


def _checked(content: Mapping[str, Any], where: str, source: str) -> PeftConfig:
    patterns = {}
    for name in ("rank_pattern", "alpha_pattern"):
        patterns[name] = content.get(name) or {}
        if not isinstance(patterns[name], dict) or not all(map(_is_number, patterns[name].values())):
            raise CheckpointError(f"{source} has no number for each name in its {name}; download the file again")
    rank, alpha = content.get("r"), content.get("lora_alpha", content.get("alpha"))
    return PeftConfig(
        where=where,
        kind=str(content.get("peft_type") or ""),
        rank=rank if _is_number(rank) else None,
        alpha=alpha if _is_number(alpha) else None,
        **patterns,
        use_rslora=bool(content.get("use_rslora")),
        content=content,
    )


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def scale_of(
    module: str, rank: int | None, config: PeftConfig, *, alpha: float | None, divide_by_rank: bool, is_sat: bool
) -> Scale:
    """The file's alpha / r; else what PEFT's configuration says; else 1 / r for SAT, or if asked for; else 1.

    Args: rank: None for an adapter of whole matrices, which alpha does not scale.
    """
    if alpha is not None:
        return Scale(1.0, "whole matrices") if rank is None else Scale(alpha / rank, f"alpha {alpha:g}, rank {rank}")
    declared = config.scale(module)
    if declared and rank in (None, config.rank_of(module)):
        return declared
    if rank is None:
        return Scale(1.0, "not known: no alpha in the file")
    if is_sat or divide_by_rank:
        return Scale(1 / rank, f"1 / rank {rank}, {'as SAT trains' if is_sat else 'as asked for'}")
    if declared:
        return Scale(1.0, f"not known: rank {rank}, and {config.where} is about rank {config.rank_of(module):g}")
    return Scale(1.0, f"not known: rank {rank}, no alpha in the file, no {_CONFIG} beside it")
