"""Writing files: safetensors and gguf read back what was written, and a failure leaves nothing."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from cogvideox_core.weights.entries import TensorEntry
from cogvideox_core.weights.files import open_weights
from cogvideox_core.weights.packed_entries import with_packed_weights
from cogvideox_core.weights.packed_weight import PackedWeight, quantize
from cogvideox_core.weights.writing import atomic_write, entry_bytes, write_gguf, write_safetensors


def entry(tensor: Tensor) -> TensorEntry:
    return TensorEntry(tuple(tensor.shape), tensor.dtype, lambda: tensor)


TENSORS = {
    "matrix": torch.arange(6.0).view(2, 3),
    "turned": torch.arange(6.0, dtype=torch.bfloat16).view(2, 3).t(),
    "scalar": torch.tensor(7, dtype=torch.int64),
    "empty": torch.zeros(0, 4, dtype=torch.float16),
    "fp8": torch.ones(3).to(torch.float8_e4m3fn),
}


def test_safetensors_reads_what_is_written(tmp_path: Path) -> None:
    path, sizes = tmp_path / "a.safetensors", []
    write_safetensors(path, {key: entry(value) for key, value in TENSORS.items()}, {"by": "me"}, sizes.append)
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt", "by": "me"}
        assert set(file.keys()) == set(TENSORS)
        for key, tensor in TENSORS.items():
            found = file.get_tensor(key)
            assert found.dtype == tensor.dtype and found.shape == tensor.shape, key
            assert torch.equal(found.float(), tensor.float()), key
    assert sizes == [tensor.numel() * tensor.itemsize for tensor in TENSORS.values()]
    assert (int.from_bytes(path.read_bytes()[:8], "little")) % 8 == 0, "data begins at a multiple of 8"


def test_gguf_reads_what_is_written(tmp_path: Path) -> None:
    packed = quantize(torch.randn(4, 64, generator=torch.Generator().manual_seed(0)), "Q8_0")
    entries = {
        "blocks": TensorEntry((4, 64), torch.float16, lambda: packed, "Q8_0"),
        "half": entry(torch.arange(6, dtype=torch.bfloat16).view(2, 3)),
    }
    write_gguf(tmp_path / "a.gguf", entries, "cogvideox_transformer", {"num_layers": 2})
    found = {part.name: part for part in gguf.GGUFReader(tmp_path / "a.gguf").tensors}
    numbers = gguf.quants.dequantize(found["blocks"].data, gguf.GGMLQuantizationType.Q8_0)
    assert torch.equal(torch.from_numpy(numbers), packed.dequantize(torch.float32))
    opened = with_packed_weights(open_weights(tmp_path / "a.gguf"))
    assert isinstance(opened["blocks"], PackedWeight) and opened.metadata["config"] == '{"num_layers": 2}'
    assert torch.equal(opened["half"], entries["half"].read())


def test_bytes_of_an_entry_are_those_in_the_file() -> None:
    assert entry_bytes(entry(torch.zeros(2, 3, dtype=torch.bfloat16))) == 12
    assert entry_bytes(entry(torch.tensor(1.0))) == 4
    assert entry_bytes(TensorEntry((4, 64), torch.float16, lambda: torch.zeros(0), "Q4_0")) == 4 * 2 * 18
    assert entry_bytes(TensorEntry((4, 64), torch.float16, lambda: torch.zeros(0), "int8")) == 4 * 64


def test_a_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("before")
    with atomic_write(path) as part:
        part.write_text("after")
        assert path.read_text() == "before" and part.parent == tmp_path
    assert path.read_text() == "after" and [file.name for file in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_failure_leaves_what_was_there(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a"
    path.write_text("before")
    with pytest.raises(error), atomic_write(path) as part:
        part.write_text("half")
        raise error
    assert path.read_text() == "before" and [file.name for file in tmp_path.iterdir()] == ["a"]
    with pytest.raises(AssertionError):  # an entry that does not read as it says
        write_safetensors(path, {"x": TensorEntry((9,), torch.float32, lambda: torch.zeros(2))})
    assert path.read_text() == "before" and [file.name for file in tmp_path.iterdir()] == ["a"]


def test_gguf_is_needed_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(ImportError, match="writing a.gguf needs the package gguf; run: pip install gguf"):
        write_gguf(tmp_path / "a.gguf", {}, "x")
