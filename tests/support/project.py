"""The repository's own files, and what pyproject.toml says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from tests import provision

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports] -- comes with pytest


def pyproject() -> dict[str, Any]:
    """The whole file."""
    return tomllib.loads((provision.REPO / "pyproject.toml").read_text(encoding="utf-8"))


def own_files() -> list[Path]:
    """The files of the repository: tracked, or new and not ignored.

    Raises: RuntimeError outside a git checkout.
    """
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=provision.REPO, capture_output=True, text=True)
    if listing.returncode:
        raise RuntimeError(f"{provision.REPO} is no git checkout; clone the repository to run its tests")
    return [path for path in map(provision.REPO.joinpath, listing.stdout.split("\0")) if path.is_file()]
