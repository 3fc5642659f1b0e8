"""Hugging Face's cache: found, read and named as huggingface_hub does it, which is asked each time."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path, PurePosixPath

import huggingface_hub
import pytest

from cogvideox_core import CheckpointError
from cogvideox_core.models.variants import VARIANTS
from cogvideox_core.weights.places.hub_cache import (
    cache_folder,
    cached,
    cached_repositories,
    download_command,
    is_repository_name,
    newest_snapshot,
    published_as,
    readable_name,
    repository_of,
    snapshot_in,
)
from tests.support.hub_cache import FIRST, SECOND, add_to_cache

NAME = "zai-org/CogVideoX-5b"
FOLDER = "models--zai-org--CogVideoX-5b"
VARIABLES = ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Two files of a model."""
    (tmp_path / "model" / "vae").mkdir(parents=True)
    (tmp_path / "model" / "model_index.json").write_text(json.dumps({"_class_name": "CogVideoXPipeline"}))
    (tmp_path / "model" / "vae" / "config.json").write_text("{}")
    return tmp_path / "model"


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"HF_HOME": "$HOME/elsewhere"},
        {"HF_HUB_CACHE": "~/hub", "HF_HOME": "$HOME/elsewhere"},
        {"HUGGINGFACE_HUB_CACHE": "$HOME/old"},
        {"HUGGINGFACE_HUB_CACHE": "$HOME/old", "HF_HUB_CACHE": "$HOME/new"},
        {"XDG_CACHE_HOME": "$HOME/xdg"},
        {"XDG_CACHE_HOME": "$HOME/xdg", "HF_HOME": "~/elsewhere"},
    ],
    ids=lambda given: "+".join(given) or "none",
)
def test_it_is_where_huggingface_hub_has_it(given: dict[str, str], tmp_path: Path) -> None:
    """In a process of its own: huggingface_hub reads the environment once."""
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    environment |= {"HOME": str(tmp_path), **given}
    script = (
        "from huggingface_hub import constants; from cogvideox_core.weights.places.hub_cache import cache_folder\n"
        "print(constants.HF_HUB_CACHE); print(cache_folder())"
    )
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    theirs, ours = done.stdout.splitlines()
    assert theirs == ours and "$" not in ours and "~" not in ours


def test_the_files_of_a_name_are_those_that_huggingface_hub_gives(own_cache: Path, model: Path) -> None:
    add_to_cache(own_cache, NAME, model, FIRST)
    add_to_cache(own_cache, NAME, model, SECOND)
    add_to_cache(own_cache, "google/t5-v1_1-xxl", model)
    (own_cache / "datasets--some--thing" / "snapshots" / FIRST).mkdir(parents=True)
    assert cache_folder() == own_cache
    for name in (NAME, "google/t5-v1_1-xxl"):
        assert str(cached(name)) == huggingface_hub.snapshot_download(name, cache_dir=own_cache, local_files_only=True)
    scanned = huggingface_hub.scan_cache_dir(own_cache)
    assert set(cached_repositories()) == {repo.repo_id for repo in scanned.repos if repo.repo_type == "model"}
    assert not [warning for warning in scanned.warnings if "models--" in str(warning)], "the layout is the real one"
    assert str(cached(f"{NAME}/vae/config.json")) == huggingface_hub.try_to_load_from_cache(
        NAME, "vae/config.json", cache_dir=own_cache
    )


def test_main_counts_and_not_what_was_downloaded_beside_it(own_cache: Path, model: Path) -> None:
    main = add_to_cache(own_cache, NAME, model, FIRST)
    other = add_to_cache(own_cache, NAME, model, SECOND, is_main=False)
    os.utime(main, (0, 0))
    assert newest_snapshot(own_cache / FOLDER) == main
    (own_cache / FOLDER / "refs" / "main").unlink()
    assert newest_snapshot(own_cache / FOLDER) == other, "the newest one, where a commit was asked for by its number"
    (own_cache / FOLDER / "refs" / "main").write_text("../../..")
    assert newest_snapshot(own_cache / FOLDER) == other


def test_names_count_in_any_case_and_under_the_authors_former_name(own_cache: Path, model: Path) -> None:
    snapshot = add_to_cache(own_cache, "THUDM/CogVideoX-5b", model)
    assert cached("THUDM/CogVideoX-5b") == cached("zai-org/cogvideox-5B") == snapshot
    assert cached("zai-org/CogVideoX-5b/vae") == snapshot / "vae"
    assert cached("someone/CogVideoX-5b") is None and cached("zai-org/CogVideoX-5b/transformer") is None
    own = add_to_cache(own_cache, "zai-org/CogVideoX-5b", model)
    assert cached("zai-org/CogVideoX-5b") == own and cached("THUDM/CogVideoX-5b") == snapshot


def test_folders_of_the_cache_stand_for_their_newest_snapshot(own_cache: Path, model: Path) -> None:
    snapshot = add_to_cache(own_cache, NAME, model)
    for folder in (own_cache / FOLDER, own_cache / FOLDER / "snapshots"):
        assert snapshot_in(folder) == snapshot
    for folder in (snapshot, snapshot / "vae", model):
        assert snapshot_in(folder) == folder
    with pytest.raises(CheckpointError, match=f"is Hugging Face's cache and no model; give one of its names: {NAME}"):
        snapshot_in(own_cache)


def test_an_unfinished_download_is_told(own_cache: Path) -> None:
    (own_cache / FOLDER / "blobs").mkdir(parents=True)
    (own_cache / FOLDER / "blobs" / "0a1b.incomplete").write_bytes(b"half")
    with pytest.raises(CheckpointError, match=rf"{FOLDER} holds no finished download; run: \S+ download {NAME}$"):
        snapshot_in(own_cache / FOLDER)
    assert cached(NAME) is None


def test_a_path_in_the_cache_is_told_by_its_repository() -> None:
    newest = {FOLDER: FIRST}
    for path, name in (
        (f"{FOLDER}/snapshots/{FIRST}", NAME),
        (f"{FOLDER}/snapshots/{SECOND}", f"{NAME}@22222222"),
        (f"hub/{FOLDER}/snapshots/{FIRST}/vae", f"hub/{NAME}/vae"),
        ("models--gpt2/snapshots/1", "gpt2@1"),
        (FOLDER, NAME),
        ("mine/CogVideoX-5b", "mine/CogVideoX-5b"),
    ):
        assert readable_name(PurePosixPath(path), newest) == name
    assert readable_name(PurePosixPath(f"{FOLDER}/snapshots/{SECOND}")) == NAME
    assert repository_of(Path("/x", FOLDER, "snapshots", FIRST, "vae")) == NAME
    assert repository_of(Path("/x/CogVideoX-5b")) is None


def test_released_models_are_known_by_their_names() -> None:
    for row in VARIANTS.values():
        assert published_as(row.name) == published_as(f"models/{row.source.split('/')[1]}") == row.source
    assert published_as("CogVideoX-Fun-V1.5-5b-InP") == "alibaba-pai/CogVideoX-Fun-V1.5-5b-InP"
    assert published_as("5b") is None and published_as("") is None


@pytest.mark.parametrize("name", ["owner", "/a/b", "../a", "a/../b", "C:\\a/b", "a//b", "a/b/", ""])
def test_what_can_be_no_repository(name: str) -> None:
    assert not is_repository_name(name)


@pytest.mark.parametrize(
    "inside", ["/vae", pytest.param("", marks=pytest.mark.slow), pytest.param("/vae/x.json", marks=pytest.mark.slow)]
)
def test_the_command_is_one_that_huggingface_hub_has(inside: str, own_cache: Path) -> None:
    """Its own program takes it, and then says that it may not go online here."""
    program, *arguments = shlex.split(download_command(NAME + inside))
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    command = [str(Path(sys.executable).with_name(program)), *arguments]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "HF_HUB_OFFLINE" in told.stderr + told.stdout
