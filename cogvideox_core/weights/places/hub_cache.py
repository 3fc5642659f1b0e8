"""Hugging Face's cache: what `hf download` and diffusers have brought to this machine. Nothing is downloaded here.

The cache has a folder `models--OWNER--NAME` for each repository. Its `snapshots/COMMIT` hold the files, most of them
links into `blobs`, and its `refs/main` names the commit that was downloaded last.

Source: huggingface_hub's guide on its cache, and its `constants` for the variables of the environment.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path, PurePath

from ...models.variants import DERIVED, VARIANTS
from ..errors import CheckpointError

_FOLDER = re.compile(r"models--(?:(?P<owner>.+?)--)?(?P<name>.+)")
_SNAPSHOTS = "snapshots"
_COMMIT_DIGITS = 8  # of a commit that is not the newest, as part of a name
_PUBLISHERS = ("zai-org", "THUDM")
"""The authors of CogVideoX under their present name and under their former one; the repositories are the same."""


def cache_folder() -> Path:
    """The cache that huggingface_hub would use, by the variables of the environment."""
    at_home = os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    default = os.path.join(os.environ.get("HF_HOME") or at_home, "hub")
    folder = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or default
    return Path(os.path.expandvars(os.path.expanduser(folder)))


def is_repository_folder(name: str) -> bool:
    """Whether a folder of this name is a repository's in a cache."""
    return _FOLDER.fullmatch(name) is not None


def newest_snapshot(folder: Path) -> Path | None:
    """The files of a repository's folder: of the commit that was downloaded last; None if there are none."""
    snapshots = folder / _SNAPSHOTS
    main = folder / "refs" / "main"
    if main.is_file():
        commit = main.read_text(encoding="utf-8", errors="replace").strip()
        if re.fullmatch(r"\w+", commit) and (snapshots / commit).is_dir():
            return snapshots / commit
    commits = [path for path in snapshots.iterdir() if path.is_dir()] if snapshots.is_dir() else []
    return max(commits, key=lambda path: path.stat().st_mtime, default=None)


def readable_name(path: PurePath, newest: Mapping[str, str] | None = None) -> str:
    """A path in a cache by the repository's name: `zai-org/CogVideoX-5b/vae` for `models--zai-org--.../<commit>/vae`.

    Args:
        path: below or in a cache; any other is returned as it is.
        newest: the newest commit of each folder; a name says which commit it means if it is another. None: it is not
            asked for.
    """
    parts = list(path.parts)
    for index, part in enumerate(parts):
        if not (match := _FOLDER.fullmatch(part)):
            continue
        repository = "/".join(filter(None, match.groups()))
        if parts[index + 1 : index + 2] != [_SNAPSHOTS] or len(parts) < index + 3:
            return "/".join([*parts[:index], repository])
        commit = parts[index + 2]
        if newest is not None and newest.get(part) != commit:
            repository += f"@{commit[:_COMMIT_DIGITS]}"
        return "/".join([*parts[:index], repository, *parts[index + 3 :]])
    return path.as_posix()


def repository_of(path: Path) -> str | None:
    """OWNER/NAME of the repository in whose folder a path is; None if it is in no cache."""
    for folder in (path, *path.parents):
        if is_repository_folder(folder.name):
            return readable_name(PurePath(folder.name))
    return None


def cached_repositories() -> dict[str, Path]:
    """The newest snapshot of each repository in the cache, by OWNER/NAME."""
    found = {}
    for folder in _repository_folders(cache_folder()):
        if (snapshot := newest_snapshot(folder)) is not None:
            found[readable_name(PurePath(folder.name))] = snapshot
    return found


def cached(name: str) -> Path | None:
    """What OWNER/NAME, or OWNER/NAME/PATH within it, is in the cache; None if it is not there.

    Names count in any case, as on Hugging Face's site, and those of CogVideoX's authors under either of theirs.
    """
    owner, _, rest = name.partition("/")
    repository, _, inside = rest.partition("/")
    owners = _PUBLISHERS if owner.casefold() in map(str.casefold, _PUBLISHERS) else (owner,)
    wanted = [f"{one}/{repository}".casefold() for one in sorted(owners, key=lambda one: one != owner)]
    by_name = {found.casefold(): snapshot for found, snapshot in cached_repositories().items()}
    for snapshot in (by_name[one] for one in wanted if one in by_name):
        if (snapshot / inside).exists():
            return snapshot / inside
    return None


def snapshot_in(folder: Path) -> Path:
    """What a folder of the cache stands for: the newest snapshot of a repository; any other folder for itself.

    Raises: CheckpointError if nothing was downloaded completely, or it is the cache as a whole.
    """
    repository = folder.parent if folder.name == _SNAPSHOTS else folder
    if is_repository_folder(repository.name):
        snapshot = newest_snapshot(repository)
        if snapshot is None:
            name = readable_name(PurePath(repository.name))
            raise CheckpointError(f"{folder} holds no finished download; run: {download_command(name)}")
        return snapshot
    held = [readable_name(PurePath(inner.name)) for inner in _repository_folders(folder)]
    if held and not (folder / "model_index.json").exists():
        raise CheckpointError(
            f"{folder} is Hugging Face's cache and no model; give one of its names: {', '.join(held)}"
        )
    return folder


def published_as(name: str) -> str | None:
    """The repository of a released or derived model that is called like this, its owner left out or not."""
    wanted = name.replace("\\", "/").rpartition("/")[2].casefold()
    sources = (row.source for row in (*VARIANTS.values(), *DERIVED.values()))
    return next((source for source in sources if source.casefold().endswith(f"/{wanted}")), None)


def is_repository_name(name: str) -> bool:
    """Whether Hugging Face may have a repository of this name: OWNER/NAME, or a path in it."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*(/[^/\\:]+)*", name) is not None


def download_command(name: str) -> str:
    """What to type to download OWNER/NAME, or of it the file or the folder at OWNER/NAME/PATH."""
    program = "hf" if find_spec("huggingface_hub.cli") else "huggingface-cli"  # the name before version 0.34
    owner, repository, *inside = name.split("/", 2)
    what = [path if PurePath(path).suffix else f'--include "{path}/*"' for path in inside]
    return " ".join([program, "download", f"{owner}/{repository}", *what])


def _repository_folders(cache: Path) -> Iterator[Path]:
    if cache.is_dir():
        yield from (folder for folder in sorted(cache.iterdir()) if is_repository_folder(folder.name))
