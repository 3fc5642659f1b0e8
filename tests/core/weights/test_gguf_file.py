""".gguf files: their numbers are those that the gguf package reads, and damage is named."""

from __future__ import annotations

import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from cogvideox_core import load_transformer
from cogvideox_core.weights.errors import CheckpointError
from cogvideox_core.weights.gguf_file import OWN_METADATA, GGUFFile
from cogvideox_core.weights.packed_weight import PackedWeight
from tests.support.parity import assert_parity
from tests.support.toy_transformers import output, state_of
from tests.support.weight_forms import (
    k_blocks,
    prefixed,
)


@pytest.mark.parametrize("name", ["Q4_K", "Q6_K"])
def test_k_quants_are_the_numbers_that_gguf_reads_from_them(name: str, tmp_path: Path) -> None:
    state = state_of("CogVideoX-5B")
    path = k_blocks(name)(state, tmp_path)
    model, dense = load_transformer(path, dtype="float32"), dict(state)
    held = {key for key, tensor in model.state_dict().items() if isinstance(tensor, PackedWeight)}
    for tensor in gguf.GGUFReader(path).tensors:
        if tensor.tensor_type.name == name:
            dense[tensor.name] = torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type).copy())
    assert held == {key for key in state if dense[key] is not state[key]} != set()
    (tmp_path / "dense").mkdir()
    reference = load_transformer(prefixed("")(dense, tmp_path / "dense"), dtype="float32")
    assert_parity(output(model), output(reference), 1e-5, f"{name} in a file")


def written(path: Path, tensors: dict[str, np.ndarray], **metadata: str) -> Path:
    writer = gguf.GGUFWriter(path, "cogvideox")
    for name, value in metadata.items():
        writer.add_string(name, value)
    for key, tensor in tensors.items():
        writer.add_tensor(key, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_plain_numbers_keep_their_shape_order_and_dtype(tmp_path: Path) -> None:
    numbers = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    path = written(tmp_path / "a.gguf", {"a": numbers, "b": numbers.astype(np.float16)})
    file = GGUFFile(path)
    assert {key: (entry.shape, entry.dtype, entry.codec) for key, entry in file.entries.items()} == {
        "a": ((2, 3, 4), torch.float32, None),
        "b": ((2, 3, 4), torch.float16, None),
    }
    assert torch.equal(file.entries["a"].read(), torch.from_numpy(numbers))


def test_our_metadata_loses_its_prefix_and_others_stay_out(tmp_path: Path) -> None:
    metadata = {OWN_METADATA + "config": "{}", "general.name": "toy", "llama.context_length": "9"}
    file = GGUFFile(written(tmp_path / "a.gguf", {"a": np.ones(2, dtype=np.float32)}, **metadata))
    assert file.metadata == {"general.architecture": "cogvideox", "general.name": "toy", "config": "{}"}


def test_formats_that_are_not_read_are_named(tmp_path: Path) -> None:
    path = written(tmp_path / "a.gguf", {"a": np.ones(4, dtype=np.int32)})
    with pytest.raises(
        CheckpointError, match=r"number formats that are not read: a \(I32\); give one of F32, F16, BF16, Q4"
    ):
        GGUFFile(path)


@pytest.mark.parametrize("keep", [0, 3, 20, 40])
def test_a_damaged_file_is_named(keep: int, tmp_path: Path) -> None:
    path = written(tmp_path / "a.gguf", {"a": np.ones(4, dtype=np.float32)})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="a.gguf is no whole GGUF file .*; download or copy it again"):
        GGUFFile(path)


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ImportError, match="a.gguf needs the package gguf; run: pip install gguf"):
        GGUFFile(tmp_path / "a.gguf")
