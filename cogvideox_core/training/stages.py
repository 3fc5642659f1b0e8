"""From a recipe to what is trained: models made or loaded, clips encoded, the objective put together."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from ..models.transformer.model import CogVideoXTransformer3D
from ..models.vae.autoencoder import AutoencoderCausal3D
from ..models.variants import VARIANTS, Defaults, Variant
from ..pipeline.conditioning import image_latent_factor
from ..videos.frame_times import frames_per_second
from ..videos.video_files import check_fps
from ..weights.save_diffusers import write_index, write_lora, write_scheduler, write_transformer
from .autoencoder_objective import AutoencoderObjective
from .clips import ClipSource, FolderClips
from .diffusion_objective import DiffusionObjective
from .latents import EncodedBucket, EncodedClips, encode_bucket
from .lora_pairs import Pair, add_pairs
from .objective import Objective
from .recipe import AutoencoderRecipe, DiffusionRecipe, Recipe, TextRecipe
from .starting_models import component, starting_transformer, starting_vae
from .text_model import TextModel, load_text_model, new_text_model
from .text_objective import TextObjective

SAVED_DTYPE = torch.float16
_PIPELINES = {"text-to-video": "CogVideoXPipeline", "image-to-video": "CogVideoXImageToVideoPipeline"}


class Folders(NamedTuple):
    """Where a training run reads and writes.

    `model`: the model to start from (None: everything is new). `latents`: of encoded clips. `work`: of the training
    run itself.
    """

    model: Path | None
    latents: Path
    work: Path


def folder_clips(folder: Path, recipe: Recipe) -> FolderClips:
    """The videos of a folder as the clips of a recipe.

    Raises: ValueError if they do not serve it: none there, none long enough, one without a caption, one not readable.
    """
    if isinstance(recipe, TextRecipe):  # captions alone
        return FolderClips(folder, fps=None)
    models_fps = Defaults.fps if isinstance(recipe, AutoencoderRecipe) else _variant(recipe).defaults.fps
    fps = frames_per_second(recipe.clip_fps, models_fps)
    if fps is not None:
        check_fps(fps)
    clips = FolderClips(folder, fps)
    clips.check(recipe.lengths)
    return clips


def make_objective(recipe: Recipe, clips: ClipSource, folders: Folders) -> Objective:
    """What `training_loop.train` takes.

    Raises: ValueError if the recipe needs a part that is neither described nor in `folders.model`.
    """
    torch.manual_seed(recipe.optimisation.seed)
    if isinstance(recipe, AutoencoderRecipe):
        vae = starting_vae(recipe.vae, folders.model)
        return AutoencoderObjective(vae.train().requires_grad_(True), clips, recipe, dtype=SAVED_DTYPE)
    if isinstance(recipe, TextRecipe):
        text = _text_model(recipe, clips, folders)
        text.encoder.requires_grad_(True)
        return TextObjective(text, clips, recipe, write=partial(_write_text, text, folders.model))
    return _diffusion(recipe, clips, folders)


def _text_model(recipe: TextRecipe | DiffusionRecipe, clips: ClipSource, folders: Folders) -> TextModel:
    if recipe.text_encoder is None:
        return load_text_model(component(folders.model, "text_encoder").parent)
    return new_text_model(recipe.text_encoder, clips, folders.work / "tokenizer")


def _write_text(text: TextModel, model: Path | None, folder: Path) -> None:
    """The text model, and the VAE of the model it started from, so that the next stage finds both."""
    text.write(folder, SAVED_DTYPE)
    if model is not None and (vae := model / "vae").is_dir():
        shutil.copytree(vae, folder / "vae", dirs_exist_ok=True)


# --- The diffusion stages ----------------------------------------------------------------------------------------


def _diffusion(recipe: DiffusionRecipe, clips: ClipSource, folders: Folders) -> DiffusionObjective:
    variant = _variant(recipe)
    vae_folder = component(folders.model, "vae")
    vae = starting_vae(None, folders.model).requires_grad_(False)
    encoded = _encoded(vae, clips, recipe, folders.latents)
    text = _text_model(recipe, clips, folders)
    text.encoder.requires_grad_(recipe.train_text_encoder)
    transformer = starting_transformer(recipe.transformer, variant, folders.model).train().requires_grad_(True)
    if recipe.lora is None:
        write = partial(_write_model, transformer, text, vae_folder, variant)
    else:
        write = partial(_write_pairs, _pairs(transformer, recipe))
    return DiffusionObjective(transformer, text, encoded, recipe, write=write)


def _variant(recipe: DiffusionRecipe) -> Variant:
    if recipe.variant not in VARIANTS:
        raise ValueError(f"variant is {recipe.variant!r}; it is one of {', '.join(VARIANTS)}")
    return VARIANTS[recipe.variant]


def _encoded(vae: AutoencoderCausal3D, clips: ClipSource, recipe: DiffusionRecipe, folder: Path) -> EncodedClips:
    for bucket in recipe.buckets:
        encode_bucket(vae, clips, bucket, folder)
    buckets = tuple(EncodedBucket(bucket, folder) for bucket in recipe.buckets)
    return EncodedClips(clips, buckets, vae.config.scaling_factor, image_latent_factor(vae.config, "diffusers"))


def _pairs(transformer: CogVideoXTransformer3D, recipe: DiffusionRecipe) -> dict[str, Pair]:
    assert recipe.lora is not None
    if recipe.transformer is not None or recipe.train_text_encoder:
        raise ValueError(
            "lora trains a LoRA for a model that stays as it is; leave out transformer and train_text_encoder"
        )
    return add_pairs(transformer, recipe.lora)


def _write_pairs(pairs: dict[str, Pair], folder: Path) -> None:
    write_lora({name: (pair.up, pair.down) for name, pair in pairs.items()}, folder, SAVED_DTYPE)


def _write_model(
    transformer: CogVideoXTransformer3D, text: TextModel, vae: Path, variant: Variant, folder: Path
) -> None:
    """The whole official layout, with the VAE of the folder `vae`."""
    learned = variant.transformer.use_learned_positional_embeddings
    config = replace(transformer.config, use_learned_positional_embeddings=learned)
    write_transformer(transformer, config, folder / "transformer", SAVED_DTYPE)
    text.write(folder, SAVED_DTYPE)
    shutil.copytree(vae, folder / "vae", dirs_exist_ok=True)
    write_scheduler(variant.schedule, folder / "scheduler")
    write_index(folder, _PIPELINES[variant.task])
