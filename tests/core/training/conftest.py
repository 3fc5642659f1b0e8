"""A finished training run, shared by the tests that only read it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.training_runs import DIFFUSION, train


@pytest.fixture(scope="session")
def trained(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short diffusion stage that started from `toy`."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    train(DIFFUSION, folder, toy)
    return folder
