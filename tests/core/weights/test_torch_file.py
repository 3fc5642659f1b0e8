"""PyTorch pickles: their tensors are read and mapped, and code in them is never run."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cogvideox_core.weights.files import open_weights
from tests.support.weight_files import LINUX, Bomb, assert_refused, refuse_mapping, resident_mib
from tests.support.weight_forms import random_states

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


# --- What training programs store beside the weights ----------------------------------------------------------------


def numpy_1(path: Path) -> Path:
    """The file as numpy 1 would have had it written: the array's maker under its older name."""
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    return path


@pytest.mark.parametrize("zipped", [False, True])
def test_the_state_of_random_generators_is_passed_over(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "mp_rank_00_model_states.pt"
    content = {"module": {"a": A, "b": B}, "iteration": 1000, **random_states()}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    for file in (path, numpy_1(path) if zipped else path):
        weights = open_weights(file)
        assert set(weights) == {"a", "b"} and torch.equal(weights["a"], A) and torch.equal(weights["b"], B)


ARRAYS = {
    "floats": np.linspace(0, 1, 7, dtype=np.float32),
    "of big-endian integers": np.arange(4, dtype=">i4"),
    "empty": np.zeros((0, 3), dtype=bool),
    "in Fortran's order": np.asfortranarray(np.ones((3, 4))),
    "of words": np.array(["a", "b"]),
    "of objects": np.array([1, "two", None], dtype=object),
    "of records": np.zeros(2, dtype=[("a", "f4"), ("b", "O")]),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_no_array_of_numpy_is_in_the_way(tmp_path: Path, name: str) -> None:
    torch.save({"state_dict": {"a": A}, "more": [ARRAYS[name], {"deep": (ARRAYS[name],)}]}, tmp_path / "a.pt")
    assert torch.equal(open_weights(tmp_path / "a.pt")["a"], A)


class Calls:
    """Unpickling this calls a function."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def name_of(function: Any) -> str:
    return f"{function.__module__}.{function.__qualname__}"


SYSTEM: Any = os.system  # of posix or nt
REFUSED: dict[str, tuple[Any, str]] = {
    "a number of numpy": (np.float64(0.5), name_of(np.float64(0.5).__reduce__()[0])),
    "a generator of numpy": (np.random.default_rng(0), "numpy.random._pickle.__generator_ctor"),
    "an array of numpy by another way": (Calls(np.frombuffer, b"1234"), "numpy.frombuffer"),
    "a fraction": (Fraction(1, 3), name_of(Fraction)),
    "a path": (Path("x"), name_of(type(Path("x")))),
    "a command": (Calls(eval, "1"), "eval"),
    "a call of the system": (Calls(SYSTEM, "true"), name_of(SYSTEM)),
}


@pytest.mark.parametrize("what", REFUSED)
def test_all_else_is_refused_by_its_name(tmp_path: Path, what: str) -> None:
    value, name = REFUSED[what]
    torch.save({"module": {"a": A}, **random_states(), "extra": value}, tmp_path / "a.pt")
    assert_refused(tmp_path / "a.pt", f"is a pickle that would run code ({name})", "give the weights as .safetensors")


def test_an_array_cannot_be_made_of_addresses(tmp_path: Path) -> None:
    """numpy itself would take these bytes for the addresses of objects, and the process would end."""
    content = {"module": {"a": A}, "array": Calls(np.ndarray, (2,), np.dtype("O"), b"0123456789abcdef")}
    torch.save(content, tmp_path / "a.pt")
    assert torch.equal(open_weights(tmp_path / "a.pt")["a"], A)


def test_a_pickle_beside_random_states_runs_no_code(tmp_path: Path) -> None:
    trace = tmp_path / "executed"
    torch.save({"module": {"a": A}, **random_states(), "bomb": Bomb(trace)}, tmp_path / "a.pt")
    assert_refused(tmp_path / "a.pt", "is a pickle that would run code", "give the weights as .safetensors")
    assert not trace.exists()


@pytest.fixture
def allowed_by_the_host() -> Iterator[list[Any]]:
    """What ComfyUI allows `torch.load`: numpy's dtypes, and stand-ins under names of numpy's."""

    def scalar(*_: object) -> None:
        raise AssertionError("called")

    scalar.__module__ = "numpy.core.multiarray"
    before = torch.serialization.get_safe_globals()
    allowed = [scalar, np.dtype, np.dtypes.Float64DType, np.ndarray, Fraction]
    torch.serialization.add_safe_globals(allowed)
    yield torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(before)


@pytest.mark.parametrize("extra", [None, Fraction(1, 3)])
def test_what_a_host_allows_is_neither_used_nor_lost(
    tmp_path: Path, allowed_by_the_host: list[Any], extra: object
) -> None:
    torch.save({"module": {"a": A}, **random_states(), "extra": extra}, tmp_path / "a.pt")
    if extra is None:
        assert torch.equal(open_weights(tmp_path / "a.pt")["a"], A)
    else:
        assert_refused(tmp_path / "a.pt", "would run code (fractions.Fraction)")
    assert set(torch.serialization.get_safe_globals()) == set(allowed_by_the_host)


# --- Where the system maps nothing ----------------------------------------------------------------------------------


def test_a_pickle_that_cannot_be_mapped_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save({"module": {"a": A, "b": B}, **random_states()}, tmp_path / "a.pt")
    refuse_mapping(monkeypatch)
    weights = open_weights(tmp_path / "a.pt")
    assert torch.equal(weights["a"], A) and torch.equal(weights["b"], B)
    assert "a.pt is read in parts" in caplog.text and "1455" in caplog.text


def test_a_damaged_pickle_that_cannot_be_mapped_is_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"a": torch.ones(999)}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        for name, data in content.items():
            if not name.endswith("data/0"):
                archive.writestr(name, data)
    refuse_mapping(monkeypatch)
    assert_refused(tmp_path / "a.pt", "is damaged", "download or copy it again")


@pytest.mark.parametrize("zipped", [False, True])
def test_a_pickle_without_room_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool) -> None:
    torch.save({"a": A}, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)

    def no_memory(*_: object, **options: object) -> None:
        words = (
            "1455" if options.get("mmap") else "DefaultCPUAllocator: not enough memory: you tried to allocate 24 bytes."
        )
        raise RuntimeError(words)

    monkeypatch.setattr(torch, "load", no_memory)
    assert_refused(tmp_path / "a.pt", "memory has no 0.0 GB left for it", "enlarge the page file", "fp8 or int8")
