""".gguf files: their numbers are those that the gguf package reads, and damage is named."""

from __future__ import annotations

import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cogvideox_core import load_text_encoder, load_transformer
from cogvideox_core.weights.errors import CheckpointError
from cogvideox_core.weights.gguf_file import OWN_METADATA, GGUFFile
from cogvideox_core.weights.inspect import inspect
from cogvideox_core.weights.packed_weight import PackedWeight
from tests.support.checkpoints import make_checkpoint
from tests.support.parity import assert_parity
from tests.support.toy_transformers import output, state_of
from tests.support.weight_forms import dequantized, gguf_t5_name, k_blocks, prefixed, t5_q5_k_m

# Of every family; all types are in test_ggml_blocks.py.
READ_ONLY = ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "IQ3_S", "IQ2_XS", "IQ1_M", "TQ1_0"]


@pytest.mark.parametrize("name", READ_ONLY)
def test_blocks_are_the_numbers_that_gguf_reads_from_them(name: str, tmp_path: Path) -> None:
    state = state_of("CogVideoX-5B")
    path = k_blocks(name)(state, tmp_path)
    model, dense = load_transformer(path, dtype="float32"), dequantized(path)
    held = {key for key, tensor in model.state_dict().items() if isinstance(tensor, PackedWeight)}
    assert held == {key for key in state if not torch.equal(dense[key], state[key])} != set()
    (tmp_path / "dense").mkdir()
    reference = load_transformer(prefixed("")(dense, tmp_path / "dense"), dtype="float32")
    assert_parity(output(model), output(reference), 1e-5, f"{name} in a file")


def test_a_t5_in_q5_k_m_encodes_as_with_the_numbers_that_gguf_reads_from_it(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "model", "CogVideoX-5B", text_width=256)
    state = load_file(folder / "text_encoder" / "model.safetensors")
    state.pop("encoder.embed_tokens.weight", None)
    path = t5_q5_k_m(state, folder / "text_encoder")
    names, dense = {gguf_t5_name(key): key for key in state}, dequantized(path)
    (tmp_path / "dense" / "text_encoder").mkdir(parents=True)
    (tmp_path / "dense" / "tokenizer").symlink_to(folder / "tokenizer")
    plain = prefixed("")({names[key]: tensor for key, tensor in dense.items()}, tmp_path / "dense" / "text_encoder")
    encoder, reference = load_text_encoder(path, dtype="float32"), load_text_encoder(plain, dtype="float32")
    codecs = {tensor.codec for tensor in encoder.model.state_dict().values() if isinstance(tensor, PackedWeight)}
    assert codecs == {"Q5_K", "Q6_K", "Q5_1"} and isinstance(encoder.model.shared.weight, PackedWeight)
    prompts = ["a red circle moves to the right"]
    assert_parity(encoder(prompts), reference(prompts), 1e-5, "T5 in Q5_K_M")
    assert load_text_encoder(path)(prompts).dtype == torch.bfloat16
    (found,) = inspect(path)
    assert found.form == (".gguf", "Q5_1+Q5_K+Q6_K", "GGUF") and not (found.fault or found.missing or found.unexpected)


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


def test_a_type_that_the_installed_gguf_does_not_know_is_no_damage(tmp_path: Path) -> None:
    path = written(tmp_path / "a.gguf", {"name_of_it": np.ones(4, dtype=np.float32)})
    content = path.read_bytes()
    place = content.index(b"name_of_it") + len("name_of_it") + 4 + 8  # behind the count of dimensions and one of them
    path.write_bytes(content[:place] + (250).to_bytes(4, "little") + content[place + 4 :])
    with pytest.raises(CheckpointError, match="this release of gguf does not know; run: pip install -U gguf"):
        GGUFFile(path)
