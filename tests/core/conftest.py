"""Toy checkpoints, written once a session and shared by the tests of the core, which read and never change them."""

from __future__ import annotations

import os

# Nothing here may wait for a network: what is not in a toy folder does not exist.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported, which diffusers does

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkpoints import make_checkpoint
from tests.support.threads import one_thread


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`checkpoint(kind)` gives the folder of a toy checkpoint; the options are those of `make_checkpoint`."""
    made: dict[str, Path] = {}

    def get(kind: str, **options: Any) -> Path:
        key = f"{kind} {sorted(options.items())}"
        if key not in made:
            made[key] = make_checkpoint(tmp_path_factory.mktemp(kind), kind, **options)
        return made[key]

    return get


@pytest.fixture(scope="module", autouse=True)
def a_single_thread() -> Iterator[None]:
    """Toys are too small to share among threads: on a busy machine two take several times as long as one."""
    with one_thread():
        yield


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hugging Face cache of the test's own; no ComfyUI is known."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    (tmp_path / "hub").mkdir()
    return tmp_path / "hub"


@pytest.fixture
def own_comfyui(own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ComfyUI of the test's own, without models, that COMFYUI_PATH names; and `own_cache`."""
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path / "ComfyUI"))
    (tmp_path / "ComfyUI" / "models").mkdir(parents=True)
    return tmp_path / "ComfyUI"


@pytest.fixture(scope="session")
def toy(checkpoint: Callable[..., Path]) -> Path:
    """The toy that training starts from."""
    return checkpoint("CogVideoX-5B")
