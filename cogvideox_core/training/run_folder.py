"""The folder of one training run: its recipe, its log, the state it resumes from, the model it makes.

recipe.json     what was asked for
log.jsonl       one line per logged step
state.pt        weights, optimizer and averages of the last save
model/          the averaged weights of the last save, in the official layout
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch


class RunExistsError(RuntimeError):
    """The folder is not empty, and what it holds is not this training run to be resumed."""


class RunFolder:
    """Opens a folder for a training run.

    Args:
        path: made if missing.
        recipe: what the training run does, as JSON values; kept, and compared on resuming.
        resume: continue from the last save, if there is one.
        writer: whether this process writes; of all processes of a training run, only one may.
    Raises: RunExistsError if there is a training run and `resume` is off, or if its recipe is another.
    """

    def __init__(self, path: str | Path, recipe: dict[str, Any], *, resume: bool = False, writer: bool = True) -> None:
        self.path = Path(path)
        self.writer = writer
        if writer:
            self._check(recipe, resume)
            self.path.mkdir(parents=True, exist_ok=True)
            _write_text(self.path / "recipe.json", json.dumps(recipe, indent=2) + "\n")

    @property
    def model(self) -> Path:
        """The folder of the trained model."""
        return self.path / "model"

    @property
    def _log(self) -> Path:
        return self.path / "log.jsonl"

    @property
    def _state(self) -> Path:
        return self.path / "state.pt"

    def _check(self, recipe: dict[str, Any], resume: bool) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise RunExistsError(f"{self.path} is a file; a training run needs a folder")
        held = sorted(entry.name for entry in self.path.iterdir()) if self.path.is_dir() else []
        if not held:
            return
        if not (self.path / "recipe.json").is_file():
            raise RunExistsError(f"{self.path} holds {held[0]!r} and no training run; name an empty or a new folder")
        if not resume:
            raise RunExistsError(
                f"{self.path} already holds a training run; continue it with --resume, or name another folder"
            )
        kept = json.loads((self.path / "recipe.json").read_text())
        changed = sorted(key for key in {*kept, *recipe} if kept.get(key) != recipe.get(key))
        if changed:
            raise RunExistsError(
                f"{self.path} holds a training run of another recipe (different: {', '.join(changed)}); resume it with "
                "the recipe.json in it, or name another folder"
            )

    def load_state(self) -> dict[str, Any] | None:
        """The last save, or None. Later lines of the log are removed."""
        if not self._state.is_file():
            return None
        state = torch.load(self._state, map_location="cpu", weights_only=True)
        if self.writer and self._log.is_file():
            lines = self._log.read_text().splitlines(keepends=True)
            _write_text(self._log, "".join(line for line in lines if json.loads(line)["step"] <= state["step"]))
        return state

    def save_state(self, state: dict[str, Any]) -> None:
        """Replace the last save; after a kill while writing, the old one is still there."""
        if self.writer:
            unfinished = self._state.with_suffix(".part")
            torch.save(state, unfinished)
            os.replace(unfinished, self._state)

    def log(self, entry: dict[str, Any]) -> None:
        """Append a line to the log."""
        if self.writer:
            with self._log.open("a") as file:
                file.write(json.dumps(entry) + "\n")


def _write_text(path: Path, text: str) -> None:
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_text(text)
    os.replace(unfinished, path)
