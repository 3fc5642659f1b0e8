"""What the loaders offer: files and diffusers folders in ComfyUI's model folders, and the demo models and their LoRA.

A name in a list is the path below its model folder, with forward slashes on every system, so that a workflow opens
anywhere. Lists are made anew whenever ComfyUI asks for them, and a choice is looked up in a fresh list: a name that
is not in it leads nowhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import folder_paths

from ....cogvideox_core.demo import DEMO_LORAS, DEMO_MODELS
from ....cogvideox_core.weights.files import ENDINGS
from ....cogvideox_core.weights.recognize import Component

Found = dict[str, Path]

# The demo models by the names the lists show; both have the same VAE and text encoder.
_DEMO: dict[Component, Found] = {
    "transformer": {f"demo/{task}": path for task, path in DEMO_MODELS.items()},
    "vae": {"demo": DEMO_MODELS["text-to-video"]},
    "text_encoder": {"demo": DEMO_MODELS["text-to-video"]},
}
_DEMO_LORAS: Found = {f"demo/{name}": path for name, path in DEMO_LORAS.items()}


class _Place(NamedTuple):
    """A model folder of ComfyUI, by the name that extra_model_paths.yaml uses too.

    `below`: the subfolder whose files count; `files`: whether files count at all, beside diffusers folders.
    """

    name: str
    below: str = ""
    files: bool = True


# Where a component lies. The folders of the CogVideoX wrapper are among them, so that its downloads are found.
_WRAPPER, _WRAPPER_FUN, _WRAPPER_LORAS = "CogVideo", "CogVideoX_Fun", "cogvideox_loras"
_PLACES: dict[Component, tuple[_Place, ...]] = {
    "transformer": (
        _Place("diffusion_models"),
        _Place("diffusers", files=False),
        _Place(_WRAPPER, below="GGUF"),
        _Place(_WRAPPER_FUN, files=False),
    ),
    "vae": (_Place("vae"), _Place("diffusers", files=False), _Place(_WRAPPER, below="VAE")),
    "text_encoder": (
        _Place("text_encoders"),
        _Place("diffusers", files=False),
        _Place(_WRAPPER, files=False),
        _Place(_WRAPPER_FUN, files=False),
    ),
}
_LORA_PLACES = (_Place("loras"), _Place(_WRAPPER_LORAS), _Place(_WRAPPER, below="loras"))
_DEPTH = 3  # how far below a model folder a diffusers folder may lie


def choices(component: Component) -> Found:
    """Names and paths of everything that may hold this component, the demo models first."""
    found = dict(_DEMO[component])
    for place in _PLACES[component]:
        for root in _roots(place.name):
            folders = dict(_diffusers_folders(root, component))
            files = _files(root, place) if place.files else ()
            for name, path in [*folders.items(), *((n, p) for n, p in files if not _inside(n, folders))]:
                found.setdefault(name, path)
    return found


def lora_choices() -> Found:
    """Names and paths of LoRA files, the demo's first."""
    found = dict(_DEMO_LORAS)
    for place in _LORA_PLACES:
        for root in _roots(place.name):
            for name, path in _files(root, place):
                found.setdefault(name, path)
    return found


def chosen(component: Component, name: str) -> Path:
    """The path of a choice. Raises: ValueError if it is not in the list (any more)."""
    return _looked_up(name, choices(component), "models")


def chosen_lora(name: str) -> Path:
    """The path of a LoRA. Raises: ValueError if it is not in the list (any more)."""
    return _looked_up(name, lora_choices(), "LoRAs")


def fault_of(component: Component | None, name: str) -> str | None:
    """Why a choice leads nowhere, in a sentence; None if it does not. No component means a LoRA.

    ComfyUI leaves the check to a node that asks for it, which lets a workflow from Windows in, whose names have
    backslashes.
    """
    try:
        if component is None:
            chosen_lora(name)
        else:
            chosen(component, name)
    except ValueError as error:
        return str(error)
    return None


def _looked_up(name: str, found: Found, what: str) -> Path:
    path = found.get(name) or found.get(name.replace("\\", "/"))
    if path is None:
        raise ValueError(
            f"{name!r} is not among the {what}; put the file into its folder and press R, or choose another"
        )
    return path


def _roots(name: str) -> list[Path]:
    """The folders of that name: ComfyUI's and those of extra_model_paths.yaml; else the one in its models folder."""
    if name in folder_paths.folder_names_and_paths:
        roots = folder_paths.get_folder_paths(name)
    else:
        roots = [os.path.join(folder_paths.models_dir, name)]
    return [Path(root) for root in roots if os.path.isdir(root)]


def _files(root: Path, place: _Place) -> Iterator[tuple[str, Path]]:
    """Weight files below a model folder, in the order of their names."""
    for path, below, files in _walk(root / place.below):
        below.sort()
        for name in sorted(files):
            if name.lower().endswith(ENDINGS) and not name.startswith("."):
                yield (path / name).relative_to(root).as_posix(), path / name


def _walk(root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """os.walk through links, but not into a folder that it is in already."""
    for folder, below, files in os.walk(root, followlinks=True):
        path = Path(folder)
        way = [os.path.realpath(place) for place in (path, *path.parents) if place.is_relative_to(root)]
        if way[0] in way[1:]:
            below.clear()
        else:
            yield path, below, files


def _diffusers_folders(root: Path, component: Component) -> list[tuple[str, Path]]:
    """Whole or single-component folders below `root`."""
    found = []
    for path, below, files in _walk(root):
        depth = len(path.relative_to(root).parts)
        is_whole = "model_index.json" in files
        is_component = depth > 0 and "config.json" in files and any(name.endswith(".safetensors") for name in files)
        if component in below if is_whole else is_component:
            found.append((path.relative_to(root).as_posix() if depth else path.name, path))
        if is_whole or is_component or depth >= _DEPTH:
            below.clear()
    return found


def _inside(name: str, found: Found) -> bool:
    """Whether a file belongs to a folder that is offered as a whole."""
    parents = {parent.as_posix() for parent in Path(name).parents}
    return bool(parents & set(found))
