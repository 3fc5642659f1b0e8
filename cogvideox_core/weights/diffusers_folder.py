"""The diffusers folder layout: which subfolder holds a component, and what the folder's JSON files declare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

from ..models.config import ScheduleConfig, VAEConfig
from ..models.variants import Conditioning, Variant, taking
from .config_json import check_fixed, declared_fields, read_json
from .errors import CheckpointError
from .folder_files import is_official_name
from .places.hub_cache import download_command, repository_of
from .recognize import Component

_SUBFOLDERS = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")
_PIPELINE = "model_index.json"
_CONDITIONINGS: dict[str, Conditioning] = {
    "CogVideoXImageToVideoPipeline": "image",
    "CogVideoXFunControlPipeline": "control",
}
_FIXED_SCHEDULE = {
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "trained_betas": None,
}

Config = TypeVar("Config", VAEConfig, ScheduleConfig)


def component_path(path: str | Path, component: Component) -> Path:
    """The folder or file of a component.

    Args: path: a whole model folder or anything in one of its subfolders, which leads to all of them; any other folder
        or file is taken for the component itself.
    Raises: CheckpointError if `path` does not exist, or is a whole folder without that component.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"{path} does not exist; give a CogVideoX folder or a weight file")
    root = pipeline_folder(path)
    if root is None:
        return path
    if path != root and _component_folder(path).name == component:
        return path
    if not (root / component).exists():
        name = repository_of(root)
        again = "download it again" if name is None else f"run: {download_command(f'{name}/{component}')}"
        raise CheckpointError(f"{root} has no folder {component}; {again}, or give that component separately")
    return root / component


def pipeline_folder(path: str | Path) -> Path | None:
    """The whole model folder that `path` is, or is a component of; None for a component that is not in one."""
    path = Path(path)
    if path.is_dir() and ((path / _PIPELINE).exists() or (path / "transformer").is_dir()):
        return path
    folder = _component_folder(path)
    if folder.name in _SUBFOLDERS and (folder.parent / _PIPELINE).exists():
        return folder.parent
    return None


def read_config(path: str | Path) -> dict[str, Any] | None:
    """The config.json that belongs to a component: of its folder, or next to a weight file of an official name.

    None if there is none: a file of any other name may be next to the config.json of another model.
    """
    path = Path(path)
    if path.is_file() and not is_official_name(path.name):
        return None
    config = _component_folder(path) / "config.json"
    return read_json(config) if config.exists() else None


def folder_variant(row: Variant, path: str | Path) -> Variant:
    """`row` with the values of the folder's own scheduler and VAE files; `row` itself if none differs.

    Where weights could be of several models, the folder's pipeline class decides which.
    """
    root = pipeline_folder(path)
    if root is None:
        return row
    if row.or_conditioning is not None:
        row = _of_pipeline(row, root)
    every_field = tuple(field.name for field in fields(ScheduleConfig))
    schedule = _declared(row.schedule, root / "scheduler" / "scheduler_config.json", every_field, _FIXED_SCHEDULE)
    # The VAE's shape comes from its weights; a variant holds the scale of its latents only.
    vae = _declared(row.vae, root / "vae" / "config.json", ("scaling_factor", "invert_scale_latents"), {})
    if (schedule, vae) == (row.schedule, row.vae):
        return row
    return replace(row, schedule=schedule, vae=vae)


def _of_pipeline(row: Variant, root: Path) -> Variant:
    """The row built like `row` that the pipeline in a folder's model_index.json is for; `row` where it names none."""
    index = root / _PIPELINE
    name = read_json(index).get("_class_name") if index.exists() else None
    conditioning = _CONDITIONINGS.get(name) if isinstance(name, str) else None
    return (conditioning and taking(row, conditioning)) or row


def _declared(config: Config, path: Path, names: Sequence[str], fixed: Mapping[str, Any]) -> Config:
    """`config` with those of its fields that the JSON file at `path` declares."""
    if not path.exists():
        return config
    declared = read_json(path)
    check_fixed(declared, fixed, path)
    chosen = {name: value for name, value in declared.items() if name in names}
    return replace(config, **declared_fields(type(config), chosen, path))


def _component_folder(path: Path) -> Path:
    return path if path.is_dir() else path.parent
