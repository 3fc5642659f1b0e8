"""What a training run does, as dataclasses and as JSON: which stage, from what, for how long.

A recipe file is a JSON object: "stage", and the fields of the recipe of that stage below. An object in it has the
fields of a dataclass, a list those of several. `recipes/` holds the recipes of the demo models.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ..videos.frame_times import MODELS_RATE, Rate

RECIPES = Path(__file__).resolve().parent / "recipes"
Timesteps = Literal["explicit_uniform", "independent"]
Section = TypeVar("Section")


@dataclass(frozen=True)
class Optimisation:
    """How the weights are changed, step by step; named as the field of recipes is.

    `batch_size` counts the clips of one optimizer step over all processes and accumulation steps. `learning_rate` and
    `betas` are AdamW's. With a `muon_learning_rate`, the matrices inside blocks are trained by Muon (PyTorch 2.9 and
    later), which needs fewer steps.
    """

    steps: int
    batch_size: int
    learning_rate: float
    muon_learning_rate: float | None = None
    accumulation: int = 1
    warmup_steps: int = 100
    schedule: str = "cosine"
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 1e-4
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    seed: int = 0
    log_every: int = 10
    save_every: int = 200


# --- The VAE stage -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Phase:
    """The size of clips, in frames and pixels, until step `until`.

    `still` is the share of steps that train on single frames.
    """

    until: int
    num_frames: int
    height: int
    width: int
    still: float = 0.2


@dataclass(frozen=True)
class ReconstructionWeights:
    """The weight of each term in the loss; the KL term is a mean over latent values."""

    absolute: float = 1.0
    squared: float = 4.0
    edges: float = 1.0
    kl: float = 1e-4


@dataclass(frozen=True)
class AutoencoderRecipe:
    """The VAE stage.

    `phases`: sizes of clips over time, shortest clips first.
    `vae`: fields of VAEConfig for a new VAE; None continues with the model's own.
    `clip_fps`: frames per second of clips; "every" takes every frame of a file, "model" is 8, as the 1.0 models make.
    `zooms`: a window is cut out of a clip this many times larger; one of them is drawn for each clip.

    Raises: ValueError if the phases end before the last step.
    """

    optimisation: Optimisation
    phases: tuple[Phase, ...]
    vae: dict[str, Any] | None = None
    weights: ReconstructionWeights = field(default_factory=ReconstructionWeights)
    zooms: tuple[int, ...] = (1, 2)
    clip_fps: Rate = MODELS_RATE

    @property
    def lengths(self) -> set[int]:
        """Numbers of frames of its clips."""
        return {phase.num_frames for phase in self.phases}

    def __post_init__(self) -> None:
        last, steps = max((phase.until for phase in self.phases), default=0), self.optimisation.steps
        if last < steps:
            raise ValueError(f"phases end at step {last} of {steps}; let the last one go on until {steps}")


# --- The text stage ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TextRecipe:
    """The text stage.

    `text_encoder`: arguments of T5Config for a new text encoder and its tokenizer; None continues with the model's own.
    `text_tokens`: lengths that prompts are padded to. `dropout`: share of empty prompts.
    """

    optimisation: Optimisation
    text_encoder: dict[str, Any] | None = None
    text_tokens: tuple[int, ...] = (226,)
    dropout: float = 0.05


# --- The diffusion stages ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bucket:
    """`count` clips of one size, in frames and pixels, numbered from `first`; and their share of every batch."""

    num_frames: int
    height: int
    width: int
    count: int
    share: float
    first: int = 0

    @property
    def name(self) -> str:
        """The folder of the encoded clips."""
        return f"{self.num_frames}x{self.height}x{self.width}"


@dataclass(frozen=True)
class Dropout:
    """How often a condition is left out: the prompt, the first image. And how often a last image is given."""

    text: float = 0.1
    image: float = 0.05
    last_image: float = 0.25


@dataclass(frozen=True)
class Focus:
    """`share` of all clips are noised to timesteps from `low` to `high`, the others to any timestep.

    What a video shows, and where, is decided at a few noise levels; a short training is better spent on those.
    """

    low: int = 0
    high: int = 1000
    share: float = 0.0


EVERYWHERE = Focus()


@dataclass(frozen=True)
class Questions:
    """Questions about each video token (`ClipSource.token_questions`), answered inside the transformer.

    `after_block`: how many blocks the tokens have passed. `weight`: of the cross entropy in the loss; 0 asks nothing.
    """

    after_block: int = 0
    weight: float = 0.0


@dataclass(frozen=True)
class LoRAShape:
    """Which layers inside the blocks get a pair of matrices, by the ends of their names, and the rank of the pairs.

    The default layers are those of diffusers' training scripts.
    """

    rank: int
    layers: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")


@dataclass(frozen=True)
class DiffusionRecipe:
    """A diffusion stage.

    `transformer`: fields of TransformerConfig for a new transformer; None continues with the model's own. Where that is
    a text-to-video one and `variant` an image-to-video one, its patch embedding is widened.
    `text_encoder`: arguments of T5Config for a new text encoder and its tokenizer; None takes the model's own.
    `train_text_encoder`: train it too. `text_tokens`: length of a prompt in training.
    `clip_fps`: frames per second of clips; "every" takes every frame of a file, "model" is the variant's rate.
    `recompute`: keep no activations inside blocks; compute them again in the backward pass (for large models).
    `lora`: train a LoRA for the model's own transformer, which stays as it is.

    Raises: ValueError if the shares of the buckets do not add up to 1.
    """

    optimisation: Optimisation
    buckets: tuple[Bucket, ...]
    variant: str
    transformer: dict[str, Any] | None = None
    text_encoder: dict[str, Any] | None = None
    train_text_encoder: bool = False
    text_tokens: int = 226
    timesteps: Timesteps = "explicit_uniform"
    focus: Focus = EVERYWHERE
    questions: Questions = field(default_factory=Questions)
    recompute: bool = False
    dropout: Dropout = field(default_factory=Dropout)
    lora: LoRAShape | None = None
    clip_fps: Rate = MODELS_RATE

    @property
    def lengths(self) -> set[int]:
        """Numbers of frames of its clips."""
        return {bucket.num_frames for bucket in self.buckets}

    def __post_init__(self) -> None:
        total = sum(bucket.share for bucket in self.buckets)
        if abs(total - 1) > 1e-6:
            raise ValueError(f"the shares of buckets add up to {total:g}; make it 1")


# --- From JSON ---------------------------------------------------------------------------------------------------

Recipe = AutoencoderRecipe | TextRecipe | DiffusionRecipe
STAGES: dict[str, type[Recipe]] = {"autoencoder": AutoencoderRecipe, "text": TextRecipe, "diffusion": DiffusionRecipe}
_CALLED = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", dict: "an object"}


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
        raise ValueError(f"{path} is no JSON ({error}); repair it") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds a {type(values).__name__}; a recipe is an object")
    return values


def parse_recipe(values: Mapping[str, Any]) -> Recipe:
    """The recipe that a JSON object describes.

    Raises: ValueError if a field is missing, unknown or of the wrong type.
    """
    stage = values.get("stage")
    if not isinstance(stage, str) or stage not in STAGES:
        raise ValueError(f"stage is {stage!r}; it is one of {', '.join(STAGES)}")
    return _section(STAGES[stage], {name: value for name, value in values.items() if name != "stage"}, "recipe")


def _section(kind: type[Section], values: Any, where: str) -> Section:
    """A dataclass from a JSON object, which messages call `where`."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} is {values!r}; it takes an object")
    types = get_type_hints(kind)
    if unknown := sorted(set(values) - set(types)):
        raise ValueError(f"{where} has no field {', '.join(unknown)}; it takes {', '.join(types)}")
    converted = {name: _converted(value, types[name], name, where) for name, value in values.items()}
    try:
        return kind(**converted)
    except TypeError as error:  # a field without default is missing
        raise ValueError(f"{where}: {error}") from error


def _converted(value: Any, kind: Any, name: str, where: str) -> Any:
    """The value of field `name` of the section `where`: dataclasses from objects, tuples from lists."""
    choices = get_args(kind)
    if is_dataclass(kind):
        return _section(kind, value, name)  # type: ignore[arg-type] -- a class, not an instance
    if NoneType in choices:
        return None if value is None else _converted(value, choices[0], name, where)
    if get_origin(kind) in (Union, UnionType):
        return _word_or_number(value, choices, name)
    if get_origin(kind) is tuple:
        return _tuple(value, choices, name, where)
    if get_origin(kind) is Literal:
        if value not in choices:
            raise ValueError(f"{name} is {value!r}; it is one of {', '.join(choices)}")
        return value
    plain = get_origin(kind) or kind
    if not _is_a(value, plain):
        raise ValueError(f"{where} has {name} {value!r}; it takes {_CALLED[plain]}")
    return value


def _word_or_number(value: Any, kinds: tuple[Any, ...], name: str) -> Any:
    """The value of a field that takes one of some words, or a number."""
    words, _ = kinds
    if value not in get_args(words) and not _is_a(value, float):
        raise ValueError(f"{name} is {value!r}; it is one of {', '.join(get_args(words))}, or a number")
    return value


def _tuple(value: Any, kinds: tuple[Any, ...], name: str, where: str) -> tuple[Any, ...]:
    """From a list: of any length for the type arguments (X, ...), else of theirs."""
    if not isinstance(value, list | tuple):
        raise ValueError(f"{where} has {name} {value!r}; it takes a list")
    if Ellipsis not in kinds and len(value) != len(kinds):
        raise ValueError(f"{where} has {len(value)} {name}; it takes {len(kinds)}")
    return tuple(_converted(item, kinds[0], name, where) for item in value)


def _is_a(value: Any, kind: type) -> bool:
    """Whether a JSON value is of that type; a whole number is a number too, true is none."""
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is kind
