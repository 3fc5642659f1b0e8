"""Opening files, folders and shards, and one sentence for everything that cannot be opened."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cogvideox_core.weights.errors import CheckpointError
from cogvideox_core.weights.files import open_weights
from tests.support.weight_files import Bomb, assert_refused

A, B = torch.arange(6.0).reshape(2, 3), torch.ones(4, dtype=torch.bfloat16)


def write_index(folder: Path, placed: object, stem: str = "diffusion_pytorch_model") -> Path:
    index = folder / f"{stem}.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    return index


def write_shards(folder: Path, stem: str = "diffusion_pytorch_model") -> Path:
    names = [f"{stem}-0000{part}-of-00002.safetensors" for part in (1, 2)]
    save_file({"a": A}, folder / names[0])
    save_file({"b": B}, folder / names[1])
    return write_index(folder, {"a": names[0], "b": names[1]}, stem)


def test_one_file_is_opened(tmp_path: Path) -> None:
    save_file({"a": A, "b": B}, tmp_path / "any name.safetensors", metadata={"by": "me"})
    weights = open_weights(tmp_path / "any name.safetensors")
    assert weights.shapes == {"a": (2, 3), "b": (4,)}
    assert weights.dtypes == {"a": torch.float32, "b": torch.bfloat16}
    assert weights.metadata == {"by": "me"}
    assert len(weights) == 2 and set(weights) == {"a", "b"}
    assert torch.equal(weights["a"], A) and torch.equal(weights["b"], B)


@pytest.mark.parametrize("name", ["diffusion_pytorch_model", "model", "diffusion_pytorch_model.fp16", "my own"])
def test_a_folder_with_one_file_is_opened(tmp_path: Path, name: str) -> None:
    save_file({"a": A}, tmp_path / f"{name}.safetensors")
    assert torch.equal(open_weights(tmp_path)["a"], A)
    assert torch.equal(open_weights(str(tmp_path))["a"], A)


@pytest.mark.parametrize("stem", ["diffusion_pytorch_model", "model"])
def test_shards_are_opened_by_folder_by_index_and_by_any_one_of_them(tmp_path: Path, stem: str) -> None:
    index = write_shards(tmp_path, stem)
    for path in (tmp_path, index, tmp_path / f"{stem}-00002-of-00002.safetensors"):
        weights = open_weights(path)
        assert torch.equal(weights["a"], A) and torch.equal(weights["b"], B)


def test_paths_without_weights_are_refused(tmp_path: Path) -> None:
    assert_refused(tmp_path / "nowhere.safetensors", "does not exist")
    (tmp_path / "empty").mkdir()
    assert_refused(tmp_path / "empty", "looked for diffusion_pytorch_model.safetensors", "model.safetensors")
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "model_index.json").write_text("{}")
    assert_refused(tmp_path / "whole", "whole diffusers folder", "transformer")
    (tmp_path / "several").mkdir()
    for name in "xy":
        save_file({"a": A}, tmp_path / "several" / f"{name}.safetensors")
    assert_refused(tmp_path / "several", "2 sets of weights", "x.safetensors")
    (tmp_path / "notes.txt").write_text("a")
    assert_refused(tmp_path / "notes.txt", "(.txt)", "a .safetensors, .gguf or .pt file")
    (tmp_path / "noending").write_text("a")
    assert_refused(tmp_path / "noending", "no ending")


def test_sat_names_the_folder_of_its_newest_state(tmp_path: Path) -> None:
    (tmp_path / "1000").mkdir()
    torch.save({"module": {"a": A}}, tmp_path / "1000" / "mp_rank_00_model_states.pt")
    (tmp_path / "latest").write_text("1000\n")
    assert torch.equal(open_weights(tmp_path)["a"], A)
    (tmp_path / "latest").write_text("2000")
    assert_refused(tmp_path, "mp_rank_00_model_states.pt is missing, though latest names its folder")
    for name in ("../1000", "", "a/b"):
        (tmp_path / "latest").write_text(name)
        assert_refused(tmp_path, "names no folder next to it")


def test_a_directory_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").mkdir()
    assert_refused(tmp_path, "cannot be read")


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    write_shards(tmp_path)
    (tmp_path / "diffusion_pytorch_model-00002-of-00002.safetensors").unlink()
    assert_refused(tmp_path, "diffusion_pytorch_model-00002-of-00002.safetensors is missing")


def test_a_shard_without_its_index_is_no_model(tmp_path: Path) -> None:
    write_shards(tmp_path).unlink()
    assert_refused(tmp_path / "diffusion_pytorch_model-00001-of-00002.safetensors", "one of 2 parts")


@pytest.mark.parametrize(
    "name", ["../out.safetensors", "sub/x.safetensors", "/x.safetensors", "..\\x.safetensors", "C:x.safetensors",
             "..", ".", "", "a\0.safetensors", 3, None, ["x"], {"x": 1}],
)  # fmt: skip
def test_an_index_does_not_lead_out_of_its_folder(tmp_path: Path, name: object) -> None:
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    for place in (tmp_path / "out.safetensors", folder / "sub" / "x.safetensors"):
        save_file({"a": A}, place)
    write_index(folder, {"a": name})
    assert_refused(folder, "no plain file name")


def test_an_index_may_not_bring_in_code(tmp_path: Path) -> None:
    (tmp_path / "shard.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "executed")))
    write_index(tmp_path, {"a": "shard.bin"})
    with pytest.raises(CheckpointError, match="shard.bin is a pickle that .*; give the weights as .safetensors"):
        open_weights(tmp_path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [("{", "no valid JSON"), ("[]", "JSON list"), ("{}", "weight_map"), ('{"weight_map": 3}', "weight_map"),
     ('{"weight_map": {}}', "weight_map"), ("[" * 100_000, "no valid JSON"), ("", "no valid JSON")],
)  # fmt: skip
def test_a_broken_index_is_refused(tmp_path: Path, text: str, told: str) -> None:
    write_shards(tmp_path).write_text(text)
    assert_refused(tmp_path, told, "diffusion_pytorch_model.safetensors.index.json")


def test_an_index_that_is_no_text_is_refused(tmp_path: Path) -> None:
    write_shards(tmp_path).write_bytes(b"\xff\xfe{}")
    assert_refused(tmp_path, "cannot be read")


def test_index_and_shards_must_be_of_one_model(tmp_path: Path) -> None:
    index = write_shards(tmp_path)
    placed = json.loads(index.read_text())["weight_map"]
    write_index(tmp_path, placed | {"c": placed["a"]})
    assert_refused(tmp_path, "shards that lack them: c (")
    write_index(tmp_path, placed)
    save_file({"a": A, "b": B}, tmp_path / placed["b"])
    assert_refused(tmp_path, "holds a twice", placed["a"], placed["b"])
