"""What the loaders offer: files and diffusers folders in ComfyUI's model folders, and the demo models and their LoRA.

A name in a list is the path below its model folder, with forward slashes on every system, so that a workflow opens
anywhere. ComfyUI asks for the lists often: a list is kept while no folder that was looked into has changed. A choice is
looked up in the list as it is now: a name that is not in it leads nowhere.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple

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


class _ModelFolder(NamedTuple):
    """A model folder of ComfyUI, by the name that extra_model_paths.yaml uses too.

    `below`: the subfolder whose files count; `files`: whether files count at all, and not only diffusers folders.
    """

    name: str
    below: str = ""
    files: bool = True


# Where the files of a component are. Those of the CogVideoX wrapper are among them, so that its downloads are found.
_WRAPPER, _WRAPPER_FUN, _WRAPPER_LORAS = "CogVideo", "CogVideoX_Fun", "cogvideox_loras"
_FOLDERS: dict[Component, tuple[_ModelFolder, ...]] = {
    "transformer": (
        _ModelFolder("diffusion_models"),
        _ModelFolder("diffusers", files=False),
        _ModelFolder(_WRAPPER, below="GGUF"),
        _ModelFolder(_WRAPPER_FUN, files=False),
    ),
    "vae": (_ModelFolder("vae"), _ModelFolder("diffusers", files=False), _ModelFolder(_WRAPPER, below="VAE")),
    "text_encoder": (
        _ModelFolder("text_encoders"),
        _ModelFolder("diffusers", files=False),
        _ModelFolder(_WRAPPER, files=False),
        _ModelFolder(_WRAPPER_FUN, files=False),
    ),
}
_LORA_FOLDERS = (_ModelFolder("loras"), _ModelFolder(_WRAPPER_LORAS), _ModelFolder(_WRAPPER, below="loras"))
_DEPTH = 3  # how far below a model folder a diffusers folder may be


def choices(component: Component) -> Found:
    """Names and paths of everything that may hold this component, the demo models first."""
    found = dict(_DEMO[component])
    for folder in _FOLDERS[component]:
        for root in _roots(folder.name):
            whole = dict(_diffusers_folders(root, component))
            files = _files(root, folder.below) if folder.files else []
            for name, path in [*whole.items(), *files]:
                if not _inside(name, whole):
                    found.setdefault(name, path)
    return found


def lora_choices() -> Found:
    """Names and paths of LoRA files, the demo's first."""
    found = dict(_DEMO_LORAS)
    for folder in _LORA_FOLDERS:
        for root in _roots(folder.name):
            for name, path in _files(root, folder.below):
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


class _Kept(NamedTuple):
    """A list of files, and the folders it was made from with the times of their last changes."""

    found: list[tuple[str, Path]]
    changed: dict[Path, int]  # nanoseconds since 1970, as the file system has them
    made: int

    def holds(self) -> bool:
        """Whether no folder has changed since, as far as the times of its file system can tell."""
        if self.made - max(self.changed.values(), default=0) < _COARSEST_TIME:
            return False  # a change right after the list was made may have the same time
        try:
            return all(folder.stat().st_mtime_ns == time_ns for folder, time_ns in self.changed.items())
        except OSError:
            return False


_COARSEST_TIME = 2_000_000_000  # nanoseconds: FAT, and some network disks


def _kept_while_unchanged(
    make: Callable[[Path, Any, dict[Path, int]], list[tuple[str, Path]]],
) -> Callable[[Path, Any], list[tuple[str, Path]]]:
    """Have a list below a folder made again only when one of the folders that were visited has changed."""
    lists: dict[tuple[Path, Any], _Kept] = {}

    @wraps(make)
    def kept(root: Path, what: Any) -> list[tuple[str, Path]]:
        known = lists.get((root, what))
        if known is None or not known.holds():
            changed: dict[Path, int] = {}
            made = time.time_ns()
            known = lists[root, what] = _Kept(make(root, what, changed), changed, made)
        return known.found

    return kept


@_kept_while_unchanged
def _files(root: Path, below: str, changed: dict[Path, int]) -> list[tuple[str, Path]]:
    """Weight files below a model folder, in the order of their names."""
    found = []
    for path, folders, files in _walk(root / below, changed):
        folders.sort()
        for name in sorted(files):
            if name.lower().endswith(ENDINGS) and not name.startswith("."):
                found.append(((path / name).relative_to(root).as_posix(), path / name))
    return found


@_kept_while_unchanged
def _diffusers_folders(root: Path, component: Component, changed: dict[Path, int]) -> list[tuple[str, Path]]:
    """Whole or single-component folders below `root`."""
    found = []
    for path, below, files in _walk(root, changed):
        depth = len(path.relative_to(root).parts)
        is_whole = "model_index.json" in files
        is_component = depth > 0 and "config.json" in files and any(name.endswith(".safetensors") for name in files)
        if component in below if is_whole else is_component:
            found.append((path.relative_to(root).as_posix() if depth else path.name, path))
        if is_whole or is_component or depth >= _DEPTH:
            below.clear()
    return found


def _walk(root: Path, changed: dict[Path, int]) -> Iterator[tuple[Path, list[str], list[str]]]:
    """os.walk through links, but not into a folder that it is in already. `changed` gets the time of each folder."""
    if root.is_dir():
        changed[root] = root.stat().st_mtime_ns
    else:
        changed[root.parent] = root.parent.stat().st_mtime_ns  # where `root` may appear
    for folder, below, files in os.walk(root, followlinks=True):
        path = Path(folder)
        changed[path] = path.stat().st_mtime_ns
        way = [os.path.realpath(one) for one in (path, *path.parents) if one.is_relative_to(root)]
        if way[0] in way[1:]:
            below.clear()
        else:
            yield path, below, files


def _inside(name: str, whole: Found) -> bool:
    """Whether a file belongs to a folder that is offered as a whole."""
    return any(parent.as_posix() in whole for parent in Path(name).parents)
