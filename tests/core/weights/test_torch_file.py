"""PyTorch pickles: their tensors are read and mapped, and code in them is never run."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from cogvideox_core.weights.files import open_weights
from tests.support.weight_files import LINUX, Bomb, assert_refused, resident_mib

A, B = torch.arange(6.0).reshape(2, 3), torch.ones(4, dtype=torch.bfloat16)


@pytest.mark.parametrize("name", ["a.pt", "a.pth", "a.bin", "a.ckpt", "a.safetensors"])
@pytest.mark.parametrize("zipped", [False, True])
def test_code_in_a_pickle_is_not_run(tmp_path: Path, name: str, zipped: bool) -> None:
    trace = tmp_path / "executed"
    pickle.loads(pickle.dumps(Bomb(trace)))
    assert trace.exists()
    trace.unlink()
    path = tmp_path / name
    if zipped:
        torch.save({"a": A, "b": Bomb(trace)}, path)
    else:
        path.write_bytes(pickle.dumps(Bomb(trace)) + bytes(64))
    assert_refused(path, "is a pickle that ", "give the weights as .safetensors")
    assert not trace.exists()


@pytest.mark.parametrize("name", ["a.pt", "a.ckpt", "a.bin", "misnamed.safetensors"])
@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("container", [None, "module", "state_dict"])
def test_tensors_in_a_pickle_are_read(tmp_path: Path, name: str, zipped: bool, container: str | None) -> None:
    tensors = {"a": A, "b": B}
    content = tensors if container is None else {container: tensors, "step": 7, "args": {"lr": 0.1}}
    torch.save(content, tmp_path / name, _use_new_zipfile_serialization=zipped)
    weights = open_weights(tmp_path / name)
    assert weights.shapes == {"a": (2, 3), "b": (4,)}
    assert weights.dtypes == {"a": torch.float32, "b": torch.bfloat16}
    assert torch.equal(weights["a"], A) and torch.equal(weights["b"], B)


def test_a_pickle_without_named_tensors_says_so(tmp_path: Path) -> None:
    torch.save([A, B], tmp_path / "list.pt")
    assert_refused(tmp_path / "list.pt", "no tensors by name")


@LINUX
def test_a_zipped_pickle_is_mapped(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2**24)}, tmp_path / "a.pt")  # 64 MiB
    before = resident_mib()
    assert open_weights(tmp_path / "a.pt")["a"][5] == 1
    assert resident_mib() - before < 32
