"""What people type for a model, a part of one or a LoRA, and the path that is meant.

In this order: a path; a name below ComfyUI's model folders; a repository's name in Hugging Face's cache.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import get_args

from ..errors import CheckpointError, listed
from . import comfyui, hub_cache
from .listing import Found, Kind, models_in

_PATH_STARTS = ("/", "\\", ".", "~")
_WANTED = {"lora": "a LoRA's file", None: "a weight file or a CogVideoX folder"}


def locate(given: str | Path, kind: Kind | None = None) -> Path:
    """The path that is meant. What is a path and leads nowhere is returned as it is, for its reader to refuse.

    Args:
        given: a path; a name that `known_models` lists, or its end; a repository of Hugging Face's, OWNER/NAME or
            OWNER/NAME/PATH. A folder of Hugging Face's cache stands for its newest snapshot.
        kind: of what is looked for; None for any.
    Raises: CheckpointError that says where was looked and what to do.
    """
    path = Path(given).expanduser()
    if path.is_dir():
        return hub_cache.snapshot_in(path)
    if path.exists() or path.is_absolute() or str(given).startswith(_PATH_STARTS):
        return path
    name = str(given).replace("\\", "/").rstrip("/")
    kinds = get_args(Kind) if kind is None else (kind,)
    known = [known_models(one) for one in kinds]
    found = {path for names in known for path in _ending_with(name, names) or _within(name, names)}
    if len(found) > 1:
        raise CheckpointError(f"{name} may be {' or '.join(sorted(map(str, found)))}; give the path of one")
    meant = next(iter(found), None) or hub_cache.cached(name)
    if meant is None:
        raise CheckpointError(_not_found(name, kind, list(chain(*known))))
    return meant


def known_models(kind: Kind) -> Found:
    """Names and paths of all that may be of a kind, in ComfyUI's folders and in Hugging Face's cache."""
    return models_in(_roots, kind)


def places() -> str:
    """Where `known_models` looks, as part of a sentence."""
    host = comfyui.comfyui_folder()
    folders = str(host / "models") if host else f"{comfyui.VARIABLE} is not set"
    return f"ComfyUI's model folders ({folders}) and Hugging Face's cache ({hub_cache.cache_folder()})"


def _roots(name: str) -> Iterable[Path]:
    folders = comfyui.model_folders(name)
    cache = hub_cache.cache_folder()
    return [*folders, cache] if name == "diffusers" and cache.is_dir() else folders


def _ending_with(name: str, known: Found) -> list[Path]:
    """The one of this name, else all whose name ends in it; capitals do not count."""
    wanted = name.casefold()
    same = [path for found, path in known.items() if found.casefold() == wanted]
    return same or [path for found, path in known.items() if found.casefold().endswith(f"/{wanted}")]


def _within(name: str, known: Found) -> list[Path]:
    """What a name followed by a path leads to: `CogVideoX-5b/vae` to the VAE of that folder."""
    for parent in list(PurePosixPath(name).parents)[:-1]:
        inside = [path / name[len(str(parent)) + 1 :] for path in _ending_with(str(parent), known)]
        if there := [path for path in inside if path.exists()]:
            return there
    return []


def _not_found(name: str, kind: Kind | None, known: list[str]) -> str:
    """Where was looked for a name, and what to do."""
    sentence = f"{name} does not exist; it is no path, and {places()} do not have it"
    if published := hub_cache.published_as(name):
        return f"{sentence}; download it with: {hub_cache.download_command(published)}"
    if hub_cache.is_repository_name(name) and not Path(name.split("/")[0]).exists():
        return f"{sentence}; if Hugging Face has it, download it with: {hub_cache.download_command(name)}"
    if known:
        return f"{sentence}; they have {listed(dict.fromkeys(known))}"
    return f"{sentence}; give {_WANTED.get(kind, _WANTED[None])}"
