"""The folder of a training run: never overwritten, resumed from its last save, written by one process."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cogvideox_core.training.run_folder import RunExistsError, RunFolder


def test_a_training_run_is_never_overwritten(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    RunFolder(folder, {"a": 1}).log({"step": 1})
    with pytest.raises(RunExistsError, match="already holds a training run; continue it with --resume"):
        RunFolder(folder, {"a": 1})
    with pytest.raises(RunExistsError, match=r"another recipe \(different: a\)"):
        RunFolder(folder, {"a": 2}, resume=True)
    assert (folder / "log.jsonl").read_text() == '{"step": 1}\n'
    RunFolder(folder, {"a": 1}, resume=True)


def test_a_folder_of_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").touch()
    for resume in (False, True):
        with pytest.raises(RunExistsError, match="holds 'photo.jpg' and no training run"):
            RunFolder(tmp_path, {}, resume=resume)
    with pytest.raises(RunExistsError, match="is a file; a training run needs a folder"):
        RunFolder(tmp_path / "photo.jpg", {})
    assert [entry.name for entry in tmp_path.iterdir()] == ["photo.jpg"]


def test_the_last_save_is_loaded_and_later_lines_leave_the_log(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run", {})
    assert run.load_state() is None
    for step in (1, 2):
        run.log({"step": step})
        run.save_state({"step": step, "weights": torch.tensor([step])})
    run.log({"step": 3})
    state = RunFolder(tmp_path / "run", {}, resume=True).load_state()
    assert state is not None and state["step"] == 2 and state["weights"].tolist() == [2]
    assert (run.path / "log.jsonl").read_text() == '{"step": 1}\n{"step": 2}\n'
    assert sorted(file.name for file in run.path.iterdir()) == ["log.jsonl", "recipe.json", "state.pt"]


def test_only_the_writer_writes(tmp_path: Path) -> None:
    other = RunFolder(tmp_path / "run", {}, writer=False)
    other.log({"step": 1})
    other.save_state({"step": 1})
    assert list(tmp_path.iterdir()) == []
