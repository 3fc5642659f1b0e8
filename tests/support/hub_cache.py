"""Hugging Face's cache as huggingface_hub lays it out, filled from a folder instead of the network."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

FIRST, SECOND = "1" * 40, "2" * 40
"""Commits."""


def add_to_cache(cache: Path, name: str, folder: Path, commit: str = FIRST, *, is_main: bool = True) -> Path:
    """Put the files of a folder into a cache as the repository OWNER/NAME. Returns: its snapshot.

    Each file is a blob by its digest, and a relative link to it in the snapshot; `refs/main` names the commit.
    """
    repository = cache / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / commit
    (repository / "blobs").mkdir(parents=True, exist_ok=True)
    snapshot.mkdir(parents=True)
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = file.read_bytes()
        blob = repository / "blobs" / hashlib.sha256(content).hexdigest()
        blob.write_bytes(content)
        link = snapshot / file.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    if is_main:
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / "main").write_text(commit)
    return snapshot
