"""The bars of a run, as they are drawn on stderr."""

from __future__ import annotations

import pytest
import torch

from cogvideox_core import Progress
from cogvideox_core.cli.progress_bars import ProgressBars

Captured = pytest.CaptureFixture[str]


def drawn(capsys: Captured) -> list[str]:
    """Every state of the bars, in order."""
    return [line.strip() for line in capsys.readouterr().err.replace("\n", "\r").split("\r") if line.strip()]


def test_each_stage_has_a_bar_and_the_next_one_appears_when_it_is_done(capsys: Captured) -> None:
    with ProgressBars(num_steps=2, num_frames=5) as bars:
        bars.update(Progress("text", 1, 1))
        bars.update(Progress("sampling", 1, 2))
        bars.update(Progress("sampling", 2, 2))
        for _ in bars.writing(iter([torch.zeros(1, 3, 5, 2, 2)])):
            bars.update(Progress("decoding", 1, 1))
    stages = [line.split()[0] for line in drawn(capsys)]
    assert list(dict.fromkeys(stages)) == ["text", "sampling", "decoding", "writing"]


def test_the_bar_of_writing_counts_frames(capsys: Captured) -> None:
    with ProgressBars(num_steps=1, num_frames=5) as bars:
        chunks = iter([torch.zeros(1, 3, 3, 2, 2), torch.zeros(1, 3, 2, 2, 2)])
        assert [chunk.shape[2] for chunk in bars.writing(chunks)] == [3, 2]
    assert any(line.startswith("writing") and "5/5" in line for line in drawn(capsys))


def test_the_pipeline_has_the_last_word_on_the_number_of_steps(capsys: Captured) -> None:
    with ProgressBars(num_steps=9, num_frames=1) as bars:
        bars.update(Progress("sampling", 1, 4))
    assert any(line.startswith("sampling") and "1/4" in line for line in drawn(capsys))
