"""The shared host with a toy of every model in models/diffusers, and the same toys in the core."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.host import Host

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from cogvideox_core import CogVideoXPipeline, load_pipeline
from tests.support.checkpoints import OFFICIAL, make_checkpoint
from tests.support.graphs import HEIGHT, WIDTH


@pytest.fixture(scope="session")
def toys(host: Host, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of the five toys, by name; the host has them under these names."""
    folders = {}
    for kind in OFFICIAL:
        folders[kind] = make_checkpoint(tmp_path_factory.mktemp("toys") / kind, kind)
        host.add_model("diffusers", folders[kind], kind)
    return folders


@pytest.fixture(scope="session")
def core(toys: dict[str, Path]) -> Callable[[str], CogVideoXPipeline]:
    """`core(kind)`: the toy as a pipeline of the core, in float32 on the CPU."""
    return cache(lambda kind: load_pipeline(toys[kind], device="cpu"))


@pytest.fixture(scope="session")
def pictures(host: Host, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Image.Image]:
    """Two pictures of the test size, by their names in the host's input folder; "wide.png" has another shape."""
    random = np.random.default_rng(0)
    sizes = {"first.png": (HEIGHT, WIDTH), "last.png": (HEIGHT, WIDTH), "wide.png": (HEIGHT, 3 * WIDTH)}
    made = {}
    for name, (height, width) in sizes.items():
        made[name] = Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
        path = tmp_path_factory.mktemp("pictures") / name
        made[name].save(path)
        host.upload_image(path, name)
    return made
