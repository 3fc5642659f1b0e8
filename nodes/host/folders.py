"""What the loaders offer: files and diffusers folders in ComfyUI's model folders, and the demo models.

A name in a list is the path below its model folder, with forward slashes on every system, so that a workflow opens
anywhere. Lists are made anew whenever ComfyUI asks for them, and a choice is looked up in a fresh list: a name that
is not in it leads nowhere.
"""

from __future__ import annotations

import os
from pathlib import Path

import folder_paths

from ...cogvideox_core.demo import DEMO_MODELS
from ...cogvideox_core.weights.folder import ComponentName

# The demo models by the names the lists show; both have the same VAE and text encoder.
_DEMO: dict[ComponentName, dict[str, Path]] = {
    "transformer": {f"demo/{task}": path for task, path in DEMO_MODELS.items()},
    "vae": {"demo": DEMO_MODELS["text-to-video"]},
    "text_encoder": {"demo": DEMO_MODELS["text-to-video"]},
}

# Where files of a component lie, by ComfyUI's folder names; the first also holds diffusers folders.
_FILE_FOLDERS: dict[ComponentName, str] = {
    "transformer": "diffusion_models",
    "vae": "vae",
    "text_encoder": "text_encoders",
}
_DEPTH = 3  # how far below a model folder a diffusers folder may lie


def choices(component: ComponentName) -> dict[str, Path]:
    """Names and paths of everything that may hold this component, the demo models first."""
    kind = _FILE_FOLDERS[component]
    found = dict(_DEMO[component])
    for folder in (kind, "diffusers"):
        for root in folder_paths.get_folder_paths(folder) if folder in folder_paths.folder_names_and_paths else ():
            found |= {name: path for name, path in _diffusers_folders(Path(root), component) if name not in found}
    for name in folder_paths.get_filename_list(kind):
        if name.endswith(".safetensors") and not _inside(name, found):
            found[Path(name).as_posix()] = Path(folder_paths.get_full_path_or_raise(kind, name))
    return found


def chosen(component: ComponentName, name: str) -> Path:
    """The path of a choice. Raises: ValueError if it is not in the list (any more)."""
    found = choices(component)
    if name not in found:
        raise ValueError(f"{name!r} is not among the models any more; choose another, or put it back and refresh")
    return found[name]


def _diffusers_folders(root: Path, component: ComponentName) -> list[tuple[str, Path]]:
    """Whole or single-component folders below `root`."""
    found = []
    for folder, below, files in os.walk(root, followlinks=True):
        path = Path(folder)
        depth = len(path.relative_to(root).parts)
        is_whole = "model_index.json" in files
        is_component = depth > 0 and "config.json" in files and any(name.endswith(".safetensors") for name in files)
        if component in below if is_whole else is_component:
            found.append((path.relative_to(root).as_posix() if depth else path.name, path))
        if is_whole or is_component or depth >= _DEPTH:
            below.clear()
    return found


def _inside(name: str, found: dict[str, Path]) -> bool:
    """Whether a file belongs to a folder that is offered as a whole."""
    parents = {parent.as_posix() for parent in Path(name).parents}
    return bool(parents & set(found))
