"""What a run does, as JSON: which stage, from what, for how long. `recipes/` holds those of the demo models."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, get_type_hints

from .autoencoder import Phase, ReconstructionWeights
from .diffusion import NOTHING_ASKED, Dropout, Questions, Timesteps
from .latents import Bucket
from .loop import Optimisation
from .lora import LoRAShape
from .timesteps import EVERYWHERE, Focus

RECIPES = Path(__file__).resolve().parent / "recipes"
Stage = Literal["autoencoder", "text", "diffusion"]
Section = TypeVar("Section")


@dataclass(frozen=True)
class AutoencoderRecipe:
    """The VAE stage. `vae`: fields of VAEConfig for a new one; None trains the model's own on."""

    optimisation: Optimisation
    phases: tuple[Phase, ...]
    vae: dict[str, Any] | None = None
    weights: ReconstructionWeights = field(default_factory=ReconstructionWeights)
    zooms: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class TextRecipe:
    """The text stage.

    `text_encoder`: arguments of T5Config for a new one, with its tokenizer; None trains the model's own on.
    `text_tokens`: lengths of padded prompts. `dropout`: share of empty prompts.
    """

    optimisation: Optimisation
    text_encoder: dict[str, Any] | None = None
    text_tokens: tuple[int, ...] = (226,)
    dropout: float = 0.05


@dataclass(frozen=True)
class MixedBucket:
    """A bucket and its share of every batch; the shares of a recipe add up to 1."""

    bucket: Bucket
    share: float


@dataclass(frozen=True)
class DiffusionRecipe:
    """A diffusion stage.

    `transformer`: fields of TransformerConfig for a new one; None trains the model's own on. Where the model's own is
    a text-to-video one and `variant` an image-to-video one, its patch embedding is widened.
    `text_encoder`: arguments of T5Config for a new one, with its tokenizer; None takes the model's.
    `train_text_encoder` says whether it learns too. `text_tokens`: length of a prompt in training. `timesteps`,
    `focus`, `questions` and `recompute`: see `DiffusionObjective`. `lora`: train a LoRA for the model's own transformer
    in place of the transformer.
    """

    optimisation: Optimisation
    buckets: tuple[MixedBucket, ...]
    variant: str
    transformer: dict[str, Any] | None = None
    text_encoder: dict[str, Any] | None = None
    train_text_encoder: bool = False
    text_tokens: int = 226
    timesteps: Timesteps = "explicit_uniform"
    focus: Focus = EVERYWHERE
    questions: Questions = NOTHING_ASKED
    recompute: bool = False
    dropout: Dropout = field(default_factory=Dropout)
    lora: LoRAShape | None = None


Recipe = AutoencoderRecipe | TextRecipe | DiffusionRecipe


def find_recipe(name: str) -> dict[str, Any]:
    """The JSON of a recipe, by the name of one in `recipes/` or the path of a file.

    Raises: ValueError if there is none, or it is no JSON object.
    """
    path = RECIPES / f"{name}.json"
    if not path.is_file():
        path = Path(name)
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in RECIPES.glob("*.json")))
        raise ValueError(f"no recipe {name!r}; give a JSON file or one of {known}")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error})") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds a {type(values).__name__}; a recipe is an object")
    return values


def parse_recipe(values: Mapping[str, Any]) -> Recipe:
    """The recipe that JSON stands for.

    Raises: ValueError if a section or a field is missing, unknown or of the wrong kind.
    """
    values = dict(values)
    stage = values.pop("stage", None)
    if stage == "autoencoder":
        recipe = _section(
            AutoencoderRecipe,
            values,
            "recipe",
            optimisation=lambda v: _section(Optimisation, v, "optimisation", betas=tuple),
            phases=lambda v: tuple(_section(Phase, phase, "phases") for phase in v),
            weights=lambda v: _section(ReconstructionWeights, v, "weights"),
            zooms=tuple,
        )
        last, steps = max((phase.until for phase in recipe.phases), default=0), recipe.optimisation.steps
        if last < steps:
            raise ValueError(f"phases end at step {last} of {steps}; let the last one go on until {steps}")
        return recipe
    if stage == "text":
        return _section(
            TextRecipe,
            values,
            "recipe",
            optimisation=lambda v: _section(Optimisation, v, "optimisation", betas=tuple),
            text_tokens=tuple,
        )
    if stage == "diffusion":
        recipe = _section(
            DiffusionRecipe,
            values,
            "recipe",
            optimisation=lambda v: _section(Optimisation, v, "optimisation", betas=tuple),
            buckets=lambda v: tuple(_bucket(bucket) for bucket in v),
            dropout=lambda v: _section(Dropout, v, "dropout"),
            focus=lambda v: _section(Focus, v, "focus"),
            questions=lambda v: _section(Questions, v, "questions"),
            lora=lambda v: _section(LoRAShape, v, "lora", layers=tuple),
        )
        if recipe.timesteps not in Timesteps.__args__:
            raise ValueError(f"timesteps is {recipe.timesteps!r}; it is one of {', '.join(Timesteps.__args__)}")
        if abs(sum(bucket.share for bucket in recipe.buckets) - 1) > 1e-6:
            raise ValueError(f"the shares of buckets add up to {sum(b.share for b in recipe.buckets):g}; make it 1")
        return recipe
    raise ValueError(f"stage is {stage!r}; it is one of {', '.join(Stage.__args__)}")


def _bucket(values: Mapping[str, Any]) -> MixedBucket:
    values = dict(values)
    share = values.pop("share", None)
    if not isinstance(share, int | float):
        raise ValueError(f"a bucket has share {share!r}; it takes a number from 0 to 1")
    return MixedBucket(_section(Bucket, values, "buckets"), share)


_CALLED = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def _is_a(value: Any, kind: type) -> bool:
    """Whether JSON's value is of that kind; a whole number is a number too, true is none."""
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is kind


def _section(kind: type[Section], values: Any, where: str, **convert: Any) -> Section:
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} is {values!r}; it takes an object")
    known = [entry.name for entry in fields(kind)]  # type: ignore[arg-type]
    if unknown := sorted(set(values) - set(known)):
        raise ValueError(f"{where} has no field {', '.join(unknown)}; it takes {', '.join(known)}")
    hints = get_type_hints(kind)
    for name, value in values.items():
        wanted = hints[name]
        if wanted in (int, float, bool, str) and not _is_a(value, wanted):
            raise ValueError(f"{where} has {name} {value!r}; it takes {_CALLED[wanted]}")
    try:
        return kind(**{name: convert[name](value) if name in convert else value for name, value in values.items()})
    except TypeError as error:
        raise ValueError(f"{where}: {error}") from error
