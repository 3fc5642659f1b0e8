"""Folders of libraries and of training programs: which files are the weights, and what is not joined here."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint
from safetensors.torch import load_file, save_file
from torch import Tensor

from cogvideox_core import load_lora, load_transformer
from cogvideox_core.weights.convert import convert
from cogvideox_core.weights.errors import CheckpointError
from cogvideox_core.weights.files import open_weights
from cogvideox_core.weights.folder_files import is_opened_whole, is_state_of_training
from cogvideox_core.weights.inspect import inspect, report
from tests.support.checkpoints import random_transformer, toy_transformer_config
from tests.support.lora_forms import pairs_of
from tests.support.trainer_folders import FOLDERS, accelerate_state, deepspeed, lora_checkpoint, shards
from tests.support.weight_files import assert_refused

KIND = "CogVideoX-5B"
A = torch.arange(6.0).reshape(2, 3)


@pytest.fixture(scope="module")
def model() -> Any:
    return random_transformer(toy_transformer_config(KIND))


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    assert not [key for key, tensor in wanted.items() if not torch.equal(found[key], tensor)]


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_of_a_library_or_a_trainer_is_the_model_that_was_saved(name: str, model: Any, tmp_path: Path) -> None:
    folder = FOLDERS[name](model, tmp_path / "here")
    assert_same(load_transformer(folder).state_dict(), model.state_dict())
    (found,) = inspect(folder)
    assert found.variant == KIND and "complete: no key is missing or left over" in report(found), report(found)
    assert_same(load_file(convert(folder, tmp_path / "made.safetensors", "single")), model.state_dict())


@pytest.mark.parametrize("name", ["diffusers .bin in shards", "accelerate .bin in shards", "shards of both sorts"])
def test_one_shard_by_itself_finds_its_index(name: str, model: Any, tmp_path: Path) -> None:
    folder = FOLDERS[name](model, tmp_path)
    for shard in folder.glob("*-of-*"):
        if name != "shards of both sorts" or shard.suffix == ".safetensors":
            assert_same(dict(open_weights(shard)), model.state_dict())
    (index,) = {*folder.glob("*.safetensors.index.json")} or {*folder.glob("*.index.json")}
    assert_same(dict(open_weights(index)), model.state_dict())


def test_a_shard_without_its_index_is_named_as_one(model: Any, tmp_path: Path) -> None:
    folder = shards(safe_serialization=False)(model, tmp_path)
    (folder / "diffusion_pytorch_model.bin.index.json").unlink()
    shard = folder / "diffusion_pytorch_model-00002-of-00003.bin"
    assert_refused(shard, "one of 3 parts", "diffusion_pytorch_model.bin.index.json is not next to it")
    assert_refused(folder, "holds parts of a model", "no diffusion_pytorch_model.bin.index.json")
    (folder / "other.bin.index.json").write_text(json.dumps({"weight_map": {"a": "other-00001-of-00002.bin"}}))
    assert_refused(shard, "is not listed in other.bin.index.json")


def test_a_missing_shard_of_a_pickled_model_is_named(model: Any, tmp_path: Path) -> None:
    folder = shards(safe_serialization=False)(model, tmp_path)
    (folder / "diffusion_pytorch_model-00003-of-00003.bin").unlink()
    assert_refused(folder, "diffusion_pytorch_model-00003-of-00003.bin is missing", "index.json lists it")


# --- Adapters in trainers' folders ----------------------------------------------------------------------------------


@pytest.mark.parametrize("with_deepspeed", [False, True])
def test_the_lora_of_a_checkpoint_is_found(with_deepspeed: bool, model: Any, tmp_path: Path) -> None:
    pairs = pairs_of(model)
    folder = lora_checkpoint(model, pairs, tmp_path)
    if with_deepspeed:
        deepspeed("pytorch_model")(model, tmp_path)
    (found,) = inspect(folder)
    assert found.what == "a LoRA of rank 4 for 8 layers"
    ours = load_transformer(accelerate_state()(model, tmp_path / "base"), dtype="float32")
    lora = load_lora(ours, folder)
    assert len(lora.file.deltas) == len(pairs) and not lora.unmatched
    with pytest.raises(CheckpointError, match="is a LoRA, not a CogVideoX transformer"):
        load_transformer(folder)


# --- What latest may name -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tag", ["1000", "1000-ema", "pytorch_model", "global_step500", "best so far", "v1.2", "\u6700\u65b0"]
)
def test_latest_names_any_folder(tag: str, tmp_path: Path) -> None:
    (tmp_path / tag).mkdir()
    torch.save({"module": {"a": A}}, tmp_path / tag / "mp_rank_00_model_states.pt")
    (tmp_path / "latest").write_text(f"{tag}\r\n", encoding="utf-8")
    assert torch.equal(open_weights(tmp_path)["a"], A)


@pytest.mark.parametrize("tag", ["", "..", ".", "../x", "a/b", "a\\b", "C:", "/tmp", "a\0b", ".git"])
def test_latest_does_not_lead_elsewhere(tag: str, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    torch.save({"module": {"a": A}}, tmp_path / "mp_rank_00_model_states.pt")
    (tmp_path / "run" / "latest").write_text(tag)
    assert_refused(tmp_path / "run", "names no folder next to it")


# --- What is no whole set of weights --------------------------------------------------------------------------------

PARTS = {
    "zero_pp_rank_0_mp_rank_00_model_states.pt": ("ZeRO stage 3", "deepspeed.utils.zero_to_fp32"),
    "zero_pp_rank_11_mp_rank_01_model_states.pt": ("ZeRO stage 3", "--safe_serialization"),
    "z3_rank_00_model_states.pt": ("SAT divides them with ZeRO stage 3", "stage 2"),
    "mp_rank_01_model_states.pt": ("divided among several GPUs", "model_parallel_size 1"),
}


@pytest.mark.parametrize("name", PARTS)
def test_parts_of_a_model_say_how_to_join_them(name: str, tmp_path: Path) -> None:
    run = tmp_path / "my run"
    (run / "global_step1").mkdir(parents=True)
    for part in {name, name.replace("mp_rank_01", "mp_rank_00")}:
        torch.save({"module": {"a": A[:0]}}, run / "global_step1" / part)
    torch.save({}, run / "global_step1" / "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt")
    (run / "latest").write_text("global_step1")
    for path in (run, run / "global_step1", run / "global_step1" / name):
        assert_refused(path, *PARTS[name], str(run), "part of the weights" if path.is_file() else "weights in parts")


@pytest.fixture(params=[".", "pytorch_model_fsdp_0"])
def distributed(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder of PyTorch's DCP: finetrainers', and the one that accelerate makes for FSDP's SHARDED_STATE_DICT."""
    folder = tmp_path / "checkpoint-500"
    content = {"model": {"a": A, "b": A[0]}, "optimizer": {"lr": 0.1, "a": A}}
    torch.distributed.checkpoint.save(content, checkpoint_id=folder / request.param)
    torch.save({}, folder / "scheduler.bin")
    return folder


def test_a_distributed_checkpoint_is_told(distributed: Path) -> None:
    assert_refused(distributed, "holds the weights in parts, as FSDP divides them", "dcp_to_torch")
    assert_refused(next(distributed.rglob("*.distcp")), "holds a part of the weights, as FSDP divides them")


@pytest.mark.slow
def test_a_distributed_checkpoint_opens_after_the_command_that_its_sentence_names(distributed: Path) -> None:
    joined = run_named_command(distributed)
    assert torch.equal(open_weights(joined)["a"], A) and len(open_weights(joined)) == 2


def test_parts_that_accelerate_saved_of_each_rank_are_told(tmp_path: Path) -> None:
    for rank in range(2):
        torch.save({"a": A}, tmp_path / f"pytorch_model_fsdp_0_rank{rank}.bin")
    assert_refused(tmp_path, "holds the weights in parts, as FSDP divides them", "FULL_STATE_DICT")


STATES = (
    "optimizer.bin", "optimizer_1.bin", "optimizer.pt", "scheduler.bin", "sampler.bin", "scaler.pt", "rng_state_0.pth",
    "training_args.bin", "random_states_0.pkl", "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt",
)  # fmt: skip


@pytest.mark.parametrize("name", STATES)
def test_the_state_of_a_run_is_no_model(name: str, tmp_path: Path) -> None:
    torch.save({"a": A}, tmp_path / name)
    assert is_state_of_training(name)
    assert_refused(tmp_path / name, "holds the state of a training run and no weights")
    save_file({"a": A}, tmp_path / "my own.safetensors")
    assert torch.equal(open_weights(tmp_path)["a"], A), "what lies beside it is opened all the same"


def test_names_of_weights_are_no_states() -> None:
    for name in ("optimizer lora.safetensors", "pytorch_model.bin", "scheduler_config.json", "my_optimizer.pt"):
        assert not is_state_of_training(name)
    assert is_opened_whole(["latest"]) and is_opened_whole(["a.txt", "pytorch_model.bin.index.json"])
    assert not is_opened_whole(["config.json", "model.safetensors", "latest.txt"])


def test_a_run_names_its_checkpoints(tmp_path: Path) -> None:
    for name in ("checkpoint-500", "checkpoint-1000", "logs"):
        (tmp_path / name).mkdir()
    assert_refused(tmp_path, "folders of a training run (checkpoint-1000, checkpoint-500)", "give one of them")


def test_several_components_without_an_index_of_the_pipeline_are_named(tmp_path: Path) -> None:
    for name in ("transformer", "vae"):
        (tmp_path / name).mkdir()
    assert_refused(tmp_path, "holds transformer, vae", "give one of them")


def test_hidden_files_are_passed_over(tmp_path: Path) -> None:
    save_file({"a": A}, tmp_path / "mine.safetensors")
    (tmp_path / "._mine.safetensors").write_bytes(b"what a Mac leaves on other disks")
    assert torch.equal(open_weights(tmp_path)["a"], A)


# --- DeepSpeed itself -----------------------------------------------------------------------------------------------


def run_named_command(folder: Path, **environment: str) -> Path:
    """Run the command in the sentence that refuses a folder. Returns: the path that it says to give then."""
    with pytest.raises(CheckpointError) as caught:
        open_weights(folder)
    found = re.search(r"`python (?P<command>.*)` and give (?P<joined>.*)$", str(caught.value))
    assert found is not None
    arguments = [word.strip('"') for word in re.findall(r'"[^"]*"|\S+', found["command"])]
    subprocess.run([sys.executable, *arguments], check=True, env={**os.environ, **environment})
    return Path(found["joined"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "tag"), [(0, "pytorch_model"), (1, "global_step500"), (2, "500"), (3, "pytorch_model")]
)
def test_a_checkpoint_of_deepspeed_itself_opens(stage: int, tag: str, model: Any, tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    wanted = model.state_dict()
    torch.save(wanted, tmp_path / "state.pt")
    script = Path(__file__).parents[2] / "support" / "deepspeed_checkpoint.py"
    arguments = [tmp_path / "state.pt", tmp_path / "run", stage, tag]
    subprocess.run([sys.executable, script, *map(str, arguments)], check=True)
    folder = tmp_path / "run"
    if stage == 3:
        folder = run_named_command(folder, DS_ACCELERATOR="cpu")
    assert_same({key: tensor.float() for key, tensor in open_weights(folder).items()}, wanted)
    assert inspect(folder)[0].variant == KIND
