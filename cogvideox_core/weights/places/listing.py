"""What model folders hold, by the names that people see: weight files, diffusers folders, downloads of Hugging Face.

A name is the path below its model folder, with forward slashes on every system; a snapshot in Hugging Face's cache goes
by its repository's name. The lists are asked for often: one is kept while no folder that was looked into has changed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from pathlib import Path, PurePath
from typing import Any, Literal, NamedTuple

from ..folder_files import ENDINGS, is_opened_whole, is_state_of_training
from .hub_cache import is_repository_folder, newest_snapshot, readable_name

Kind = Literal["transformer", "vae", "text_encoder", "lora"]
Found = dict[str, Path]


class _ModelFolder(NamedTuple):
    """A model folder of ComfyUI, by the name that extra_model_paths.yaml uses too.

    `below`: the subfolder whose files count; `files`: whether files count at all, and not only diffusers folders.
    """

    name: str
    below: str = ""
    files: bool = True


# Where the files of a kind are. Those of the CogVideoX wrapper are among them, so that its downloads are found.
_WRAPPER, _WRAPPER_FUN, _WRAPPER_LORAS = "CogVideo", "CogVideoX_Fun", "cogvideox_loras"
_DIFFUSERS = _ModelFolder("diffusers", files=False)
_FOLDERS: dict[Kind, tuple[_ModelFolder, ...]] = {
    "transformer": (
        _ModelFolder("diffusion_models"),
        _DIFFUSERS,
        _ModelFolder(_WRAPPER, below="GGUF"),
        _ModelFolder(_WRAPPER_FUN, files=False),
    ),
    "vae": (_ModelFolder("vae"), _DIFFUSERS, _ModelFolder(_WRAPPER, below="VAE")),
    "text_encoder": (
        _ModelFolder("text_encoders"),
        _DIFFUSERS,
        _ModelFolder(_WRAPPER, files=False),
        _ModelFolder(_WRAPPER_FUN, files=False),
    ),
    "lora": (_ModelFolder("loras"), _ModelFolder(_WRAPPER_LORAS), _ModelFolder(_WRAPPER, below="loras")),
}
_DEPTH = 3  # how far below a model folder a diffusers folder may be, a cached repository counted as one folder
_IN_CACHE = 2  # folders between a repository's and its files: "snapshots" and a commit
_NOT_FILES = ("blobs", "refs", ".no_exist", ".locks")  # of a repository in the cache
# What the configurations of CogVideoX and of its text encoder say; Hugging Face's cache holds every other model too.
_COGVIDEOX, _T5 = b"cogvideox", b'"t5"'


def models_in(roots: Callable[[str], Iterable[Path]], kind: Kind, first: Found | None = None) -> Found:
    """Names and paths of everything that may be of a kind.

    Args:
        roots: gives the folders that go by one of ComfyUI's names, such as "loras".
        first: what the list begins with, whatever the folders hold under these names.
    """
    found = dict(first or {})
    for folder in _FOLDERS[kind]:
        for root in roots(folder.name):
            whole = {} if kind == "lora" else dict(_diffusers_folders(root, kind))
            files = _files(root, folder.below) if folder.files else []
            for name, path in [*whole.items(), *files]:
                if not _inside(name, whole):
                    found.setdefault(name, path)
    return found


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
    """Weight files below a model folder, in the order of their names, and folders of which no single file is all."""
    found = []
    for path, folders, files in _walk(root / below, changed):
        folders.sort()
        if path != root / below and is_opened_whole(files):
            found.append((path.relative_to(root).as_posix(), path))
        for name in sorted(files):
            if name.lower().endswith(ENDINGS) and not (name.startswith(".") or is_state_of_training(name)):
                found.append(((path / name).relative_to(root).as_posix(), path / name))
    return found


@_kept_while_unchanged
def _diffusers_folders(root: Path, kind: Kind, changed: dict[Path, int]) -> list[tuple[str, Path]]:
    """Whole or single-component folders below `root`."""
    found = []
    newest: dict[str, str] = {}  # the newest commit of each repository of Hugging Face's cache
    top = root.parent if is_repository_folder(root.name) else root
    for path, below, files in _walk(root, changed):
        inside = path.relative_to(top)
        repository = next(filter(is_repository_folder, inside.parts), None)
        if is_repository_folder(path.name) and (snapshot := newest_snapshot(path)):
            newest[path.name] = snapshot.name
        is_whole = "model_index.json" in files
        is_component = path != root and "config.json" in files and any(name.endswith(".safetensors") for name in files)
        if (kind in below if is_whole else is_component) and (repository is None or _is_of_cogvideox(path, kind)):
            found.append((path.name if path == root else readable_name(inside, newest), path))
        below[:] = [name for name in below if repository is None or name not in _NOT_FILES]
        if is_whole or is_component or len(inside.parts) >= _DEPTH + (_IN_CACHE if repository else 0):
            below.clear()
    return found


def _is_of_cogvideox(folder: Path, kind: Kind) -> bool:
    """Whether a downloaded folder's configuration is about CogVideoX; a lone text encoder's, about a T5."""
    index, config = folder / "model_index.json", folder / "config.json"
    if index.is_file():
        return _COGVIDEOX in index.read_bytes().lower()
    return config.is_file() and (_T5 if kind == "text_encoder" else _COGVIDEOX) in config.read_bytes().lower()


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
    return any(parent.as_posix() in whole for parent in PurePath(name).parents)
