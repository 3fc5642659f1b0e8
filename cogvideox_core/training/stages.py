"""From a recipe to what is trained: models made or loaded, clips encoded, the objective put together."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..models.config import TransformerConfig, VAEConfig
from ..models.transformer.model import CogVideoXTransformer3D
from ..models.vae.autoencoder import AutoencoderCausal3D
from ..models.variants import VARIANTS, Variant
from ..pipeline.conditioning import image_latent_factor
from ..sampling.noise_schedule import NoiseSchedule
from ..weights.load import load_transformer, load_vae
from ..weights.save_diffusers import write_index, write_lora, write_scheduler, write_text_encoder, write_transformer
from ..weights.t5 import load_text_encoder, load_tokenizer
from .autoencoder import AutoencoderObjective, initialize
from .clips import ClipSource
from .diffusion import DiffusionObjective, zero_initialize
from .latents import EncodedBucket, encode_bucket
from .loop import Objective
from .lora import LoRAShape, Pair, add_pairs
from .recipe import AutoencoderRecipe, DiffusionRecipe, Recipe, TextRecipe
from .text import TextObjective
from .tokenizer import train_tokenizer

SAVED_DTYPE = torch.float16
_PIPELINES = {"text-to-video": "CogVideoXPipeline", "image-to-video": "CogVideoXImageToVideoPipeline"}
_TABLE, _PATCHES = "patch_embed.pos_embedding", "patch_embed.proj.weight"
_SENTENCES = 20_000  # captions a tokenizer learns from


class Places(NamedTuple):
    """Folders of a run: `model` to start from (None: everything is new), `latents` and `work` of its own."""

    model: Path | None
    latents: Path
    work: Path


def make_objective(recipe: Recipe, clips: ClipSource, places: Places) -> Objective:
    """What `loop.train` takes.

    Raises: ValueError if the recipe needs a part that is neither described nor in `places.model`.
    """
    torch.manual_seed(recipe.optimisation.seed)
    if isinstance(recipe, AutoencoderRecipe):
        return _autoencoder(recipe, clips, places)
    if isinstance(recipe, TextRecipe):
        return _text(recipe, clips, places)
    return _diffusion(recipe, clips, places)


def _autoencoder(recipe: AutoencoderRecipe, clips: ClipSource, places: Places) -> AutoencoderObjective:
    if recipe.vae is None:
        vae = load_vae(_component(places.model, "vae"), dtype=torch.float32)
    else:
        vae = AutoencoderCausal3D(_config(VAEConfig(), recipe.vae))
        initialize(vae)
    return AutoencoderObjective(
        vae.train().requires_grad_(True),
        clips,
        recipe.phases,
        weights=recipe.weights,
        zooms=recipe.zooms,
        seed=recipe.optimisation.seed,
        dtype=SAVED_DTYPE,
    )


def _text(recipe: TextRecipe, clips: ClipSource, places: Places) -> TextObjective:
    text = _text_encoder(recipe.text_encoder, clips, places)

    def write(folder: Path) -> None:
        text.write(folder)
        if places.model is not None and (vae := places.model / "vae").is_dir():
            shutil.copytree(vae, folder / "vae", dirs_exist_ok=True)  # so that the next stage finds both

    return TextObjective(
        text.model.requires_grad_(True),
        text.tokenize,
        clips,
        lengths=recipe.text_tokens,
        dropout=recipe.dropout,
        seed=recipe.optimisation.seed,
        write=write,
    )


def _diffusion(recipe: DiffusionRecipe, clips: ClipSource, places: Places) -> DiffusionObjective:
    variant = VARIANTS.get(recipe.variant)
    if variant is None:
        raise ValueError(f"variant is {recipe.variant!r}; it is one of {', '.join(VARIANTS)}")
    vae_folder = _component(places.model, "vae")
    vae = load_vae(vae_folder, dtype=torch.float32).requires_grad_(False)
    buckets = []
    for mixed in recipe.buckets:
        encode_bucket(vae, clips, mixed.bucket, places.latents)
        buckets.append((EncodedBucket(mixed.bucket, places.latents), mixed.share))
    text = _text_encoder(recipe.text_encoder, clips, places)
    text.model.requires_grad_(recipe.train_text_encoder)
    transformer = _transformer(recipe, variant, places).train().requires_grad_(True)
    pairs = {} if recipe.lora is None else _pairs(recipe.lora, transformer, recipe)

    def write(folder: Path) -> None:
        if pairs:
            write_lora({name: (pair.up, pair.down) for name, pair in pairs.items()}, folder, SAVED_DTYPE)
            return
        learned = variant.transformer.use_learned_positional_embeddings
        config = replace(transformer.config, use_learned_positional_embeddings=learned)
        write_transformer(transformer, config, folder / "transformer", SAVED_DTYPE)
        text.write(folder)
        shutil.copytree(vae_folder, folder / "vae", dirs_exist_ok=True)
        write_scheduler(variant.schedule, folder / "scheduler")
        write_index(folder, _PIPELINES[variant.task])

    return DiffusionObjective(
        transformer,
        text.model,
        partial(text.tokenize, length=recipe.text_tokens),
        clips,
        buckets,
        NoiseSchedule(variant.schedule),
        scale=vae.config.scaling_factor,
        image_scale=image_latent_factor(vae.config, "diffusers"),
        dropout=recipe.dropout,
        timesteps=recipe.timesteps,
        focus=recipe.focus,
        questions=recipe.questions,
        seed=recipe.optimisation.seed,
        recompute=recipe.recompute,
        write=write,
    )


def _pairs(shape: LoRAShape, transformer: CogVideoXTransformer3D, recipe: DiffusionRecipe) -> dict[str, Pair]:
    if recipe.transformer is not None or recipe.train_text_encoder:
        raise ValueError("lora trains beside a model that stays; leave out transformer and train_text_encoder")
    return add_pairs(transformer, shape)


class _Text(NamedTuple):
    model: Any  # transformers' T5EncoderModel
    tokenizer: Any
    tokenizer_folder: Path

    def tokenize(self, prompts: Sequence[str], length: int) -> Tensor:
        options = dict(padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        return self.tokenizer(list(prompts), **options).input_ids

    def write(self, folder: Path) -> None:
        write_text_encoder(self.model, folder / "text_encoder", SAVED_DTYPE)
        shutil.copytree(self.tokenizer_folder, folder / "tokenizer", dirs_exist_ok=True)


def _text_encoder(new: dict[str, Any] | None, clips: ClipSource, places: Places) -> _Text:
    """A `new` one of these arguments with its tokenizer, or the model's own."""
    if new is None:
        folder = _component(places.model, "tokenizer")
        model = load_text_encoder(_component(places.model, "text_encoder"), dtype=torch.float32).model
    else:
        folder = places.work / "tokenizer"
        arguments = dict(new)
        pieces = arguments.pop("vocab_size", None)
        if not isinstance(pieces, int):
            raise ValueError(f"text_encoder has vocab_size {pieces!r}; it takes how many pieces the tokenizer may have")
        sentences = [clips.caption(index, index, 17) for index in range(_SENTENCES)]
        model = _new_t5(train_tokenizer(sentences, folder, pieces), arguments)
    model.eval()  # no dropout, so that a resumed run is the same run
    return _Text(model, load_tokenizer(folder, model.config.vocab_size), folder)


def _new_t5(vocab_size: int, arguments: dict[str, Any]) -> Any:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(T5Config(vocab_size=vocab_size, feed_forward_proj="gated-gelu", **arguments))


def _transformer(recipe: DiffusionRecipe, variant: Variant, places: Places) -> CogVideoXTransformer3D:
    """A new transformer, or the model's own, widened where the variant takes more channels.

    A table of learned positions ties a model to one size. One that is not zero stays; a new or zero one is left out
    while training, so that clips of every size can be packed, and written as zeros in the end.
    """
    if recipe.transformer is not None:
        shape = dict(recipe.transformer, use_learned_positional_embeddings=False)
        transformer = CogVideoXTransformer3D(_config(variant.transformer, shape), variant=variant)
        zero_initialize(transformer)
        return transformer
    trained = load_transformer(_component(places.model, "transformer"), dtype=torch.float32)
    tensors = trained.state_dict()
    table = tensors.get(_TABLE)
    keep_table = table is not None and bool(table.any())
    if not keep_table:
        tensors.pop(_TABLE, None)
    config = replace(
        trained.config, in_channels=variant.transformer.in_channels, use_learned_positional_embeddings=keep_table
    )
    transformer = CogVideoXTransformer3D(config, variant=variant)
    tensors[_PATCHES] = _widened(tensors[_PATCHES], config)
    transformer.load_state_dict(tensors)
    return transformer


def _widened(weight: Tensor, config: TransformerConfig) -> Tensor:
    """Zeros for input channels that are new: the widened model starts as the model it was."""
    if weight.ndim == 4:  # 1.0's Conv2d: channels stand second
        missing = config.in_channels - weight.shape[1]
        return torch.cat([weight, weight.new_zeros(len(weight), missing, *weight.shape[2:])], dim=1)
    cells = config.frame_patch * config.patch_size**2  # 1.5's Linear: channels stand before the cells of a patch
    missing = config.in_channels * cells - weight.shape[1]
    return torch.cat([weight, weight.new_zeros(len(weight), missing)], dim=1)


def _config(base: Any, values: dict[str, Any]) -> Any:
    known = {entry.name for entry in fields(base)}
    if unknown := sorted(set(values) - known):
        raise ValueError(
            f"{type(base).__name__} has no field {', '.join(unknown)}; it takes {', '.join(sorted(known))}"
        )
    return replace(base, **{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def _component(model: Path | None, name: str) -> Path:
    if model is None:
        raise ValueError(
            f"the recipe makes no {name} of its own; give the folder of a model that has one, with --model"
        )
    return model / name
