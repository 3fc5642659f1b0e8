"""Loading the T5 text encoder: mapped in its own dtype, whatever the form, and one sentence for what does not fit."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from cogvideox_core import CheckpointError
from cogvideox_core.models.text_encoder import TextEncoder
from cogvideox_core.weights.t5 import T5_VOCABULARY, load_text_encoder, read_text_encoder, tokenizer_folder
from tests.support.checkpoints import random_text_encoder
from tests.support.hub_cache import add_to_cache

Checkpoint = Callable[..., Path]


KIND = "CogVideoX-5B"


@pytest.fixture
def encoder(checkpoint: Checkpoint) -> TextEncoder:
    return load_text_encoder(checkpoint(KIND))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_that_of_transformers(checkpoint: Checkpoint, dtype: torch.dtype) -> None:
    from transformers import T5EncoderModel

    encoder = load_text_encoder(checkpoint(KIND), dtype=dtype)
    model = T5EncoderModel.from_pretrained(checkpoint(KIND) / "text_encoder", torch_dtype=dtype)
    tokens = encoder.tokenizer(["a red circle"], padding="max_length", max_length=226, return_tensors="pt").input_ids
    with torch.no_grad():
        wanted = model(tokens)[0]
    found = encoder(["a red circle"])
    assert found.dtype == wanted.dtype == encoder.dtype == dtype
    assert torch.equal(found, wanted)


def test_float16_keeps_what_overflows_in_float32(checkpoint: Checkpoint) -> None:
    encoder = load_text_encoder(checkpoint(KIND), dtype="fp16")
    original = load_text_encoder(checkpoint(KIND)).model.state_dict()
    dtypes = {name: weight.dtype for name, weight in encoder.model.named_parameters()}
    kept = {name for name, dtype in dtypes.items() if dtype == torch.float32}
    assert kept == {name for name in dtypes if name.endswith(".wo.weight")} and len(kept) == 2
    for name in kept:
        assert torch.equal(encoder.model.state_dict()[name], original[name]), "never rounded to float16 in between"


def test_weights_stay_in_the_files_dtype_and_mapped(checkpoint: Checkpoint) -> None:
    folder = checkpoint(KIND, dtype=torch.bfloat16)
    encoder = load_text_encoder(folder)
    assert encoder.dtype == torch.bfloat16 and encoder.width == 32
    file = str(folder / "text_encoder" / "model.safetensors")
    maps = [line.split()[0].split("-") for line in Path("/proc/self/maps").read_text().splitlines() if file in line]
    ranges = [(int(start, 16), int(end, 16)) for start, end in maps]
    for name, weight in encoder.model.named_parameters():
        assert any(start <= weight.data_ptr() < end for start, end in ranges), f"{name} is a copy"


def test_the_embedding_is_held_once(checkpoint: Checkpoint) -> None:
    for dtype in (None, torch.float16):
        model = load_text_encoder(checkpoint(KIND), dtype=dtype).model
        assert model.encoder.get_input_embeddings().weight is model.shared.weight


def test_shards_parts_and_single_files_load_alike(checkpoint: Checkpoint, folder: Path, encoder: TextEncoder) -> None:
    wanted = encoder(["a cat"])
    one = checkpoint(KIND)
    paths = [folder, folder / "text_encoder", one / "text_encoder" / "model.safetensors", one / "transformer"]
    for path in paths:
        assert read_text_encoder(path).config["d_model"] == 32
        assert torch.equal(load_text_encoder(path)(["a cat"]), wanted), path
    (folder / "model_index.json").unlink()
    alone = load_text_encoder(folder / "text_encoder")
    assert torch.equal(alone(["a cat"]), wanted), "a text encoder with its tokenizer may also stand alone"


def test_a_whole_t5_and_either_name_of_the_embedding_load(folder: Path, encoder: TextEncoder) -> None:
    def rename(tensors: dict[str, torch.Tensor]) -> None:
        tensors["encoder.embed_tokens.weight"] = tensors.pop("shared.weight")
        tensors["decoder.final_layer_norm.weight"] = torch.ones(32)
        tensors["lm_head.weight"] = torch.ones(256, 32)

    as_one_file(folder, rename)
    assert torch.equal(load_text_encoder(folder)(["a cat"]), encoder(["a cat"]))


def test_nothing_is_trained_or_dropped(encoder: TextEncoder) -> None:
    assert not encoder.model.training and not encoder(["a"]).requires_grad
    assert torch.equal(encoder(["a cat"]), encoder(["a cat"]))


def refuse(path: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_text_encoder(path)


def test_a_missing_shard_is_named(folder: Path) -> None:
    shards(folder)[1].unlink()
    refuse(folder, "model-00002-of-.* is missing, though model.safetensors.index.json lists it; download it again")
    with pytest.raises(CheckpointError, match="is missing"):
        read_text_encoder(folder)


def test_a_truncated_shard_is_named(folder: Path) -> None:
    shard = shards(folder)[0]
    shard.write_bytes(shard.read_bytes()[:-100])
    refuse(folder, f"{shard.name} is cut short")


def test_code_in_a_pickle_is_never_run(folder: Path, tmp_path: Path) -> None:
    for file in (folder / "text_encoder").glob("*safetensors*"):
        file.unlink()
    bomb = b"cos\nsystem\n(S'touch " + str(tmp_path / "exploded").encode() + b"'\ntR."
    (folder / "text_encoder" / "pytorch_model.bin").write_bytes(bomb)
    refuse(folder, "pytorch_model.bin is a pickle that would run code .*; give the weights as .safetensors")
    (folder / "text_encoder" / "model.safetensors").write_bytes(b"\x80\x04" + bomb)
    refuse(folder, "is a pickle that would run code")
    assert not (tmp_path / "exploded").exists()


def test_another_component_is_recognized(checkpoint: Checkpoint, folder: Path) -> None:
    whole = checkpoint(KIND)
    for part, what in (("vae", "a CogVideoX VAE"), ("transformer", "a CogVideoX transformer")):
        shutil.rmtree(folder / "text_encoder")
        shutil.copytree(whole / part, folder / "text_encoder")
        refuse(folder, f"is {what}, not a T5 text encoder; load it as")


def test_lacking_and_misshapen_tensors_are_named(folder: Path) -> None:
    as_one_file(folder, lambda tensors: tensors.pop("encoder.block.1.layer.0.SelfAttention.k.weight"))
    refuse(folder, r"1 key missing \(encoder.block.1.layer.0.SelfAttention.k.weight\)")


def test_a_tensor_that_tells_the_size_is_needed(folder: Path) -> None:
    as_one_file(folder, lambda tensors: tensors.pop("encoder.block.0.layer.1.DenseReluDense.wi_0.weight"))
    refuse(folder, "no whole T5 v1.1 encoder: encoder.block.0.layer.1.DenseReluDense.wi_0.weight is missing")


def test_another_build_of_t5_is_refused(folder: Path) -> None:
    config = folder / "text_encoder" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"feed_forward_proj": "gated-silu"}))
    refuse(folder, "declares feed_forward_proj 'gated-silu'")
    config.write_text('{"model_type": "umt5"}')
    refuse(folder, "declares model_type 'umt5'")
    config.write_text('{"layer_norm_epsilon": "none"}')
    refuse(folder, "declares layer_norm_epsilon 'none', which is not a positive number")


def test_a_text_encoder_without_tokenizer_is_told_so(folder: Path) -> None:
    (folder / "tokenizer" / "spiece.model").unlink()
    refuse(folder, "tokenizer holds no spiece.model or tokenizer.json; put the tokenizer folder of the model there")
    with pytest.raises(CheckpointError, match="holds no spiece.model"):
        tokenizer_folder(read_text_encoder(folder).folder)


@pytest.fixture
def t5_file(tmp_path: Path) -> Path:
    """A T5 in a single file, narrow but with T5's own vocabulary, and nothing beside it."""
    (tmp_path / "text_encoders").mkdir()
    random_text_encoder(vocab_size=T5_VOCABULARY).save_pretrained(tmp_path / "saved")
    return (tmp_path / "saved" / "model.safetensors").rename(tmp_path / "text_encoders" / "t5xxl.safetensors")


def test_a_single_file_takes_its_tokenizer_from_next_to_it(
    t5_file: Path, own_cache: Path, checkpoint: Checkpoint
) -> None:
    tokenizer = checkpoint(KIND) / "tokenizer"
    for place in (t5_file.parent / "tokenizer", t5_file.parents[1] / "tokenizer"):
        shutil.copytree(tokenizer, place)
        assert tokenizer_folder(t5_file) == place
        assert load_text_encoder(t5_file)(["a cat"]).shape == (1, 226, 32)
        shutil.rmtree(place)
    (t5_file.parent / "tokenizer.json").touch()
    assert tokenizer_folder(t5_file, beside=[tokenizer]) == t5_file.parent


def test_t5s_own_tokenizer_is_taken_from_where_it_is(
    t5_file: Path, own_comfyui: Path, own_cache: Path, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """Those in Hugging Face's cache and in ComfyUI's code; those of other vocabularies never."""
    told = r"tokenizer holds no spiece.model or tokenizer.json; .* there, or run: \S+ download zai-org/CogVideoX-5b --"
    refuse(t5_file, told)
    for name, folder in (("google/t5-v1_1-xxl", ""), ("THUDM/CogVideoX-2b", "tokenizer")):
        shutil.copytree(checkpoint(KIND) / "tokenizer", tmp_path / name / folder)
        snapshot = add_to_cache(own_cache, name, tmp_path / name)
        assert tokenizer_folder(t5_file, T5_VOCABULARY) == snapshot / folder
        shutil.rmtree(own_cache / f"models--{name.replace('/', '--')}")
    carried = Path(shutil.copytree(checkpoint(KIND) / "tokenizer", own_comfyui / "comfy/text_encoders/t5_tokenizer"))
    assert tokenizer_folder(t5_file, T5_VOCABULARY) == carried
    assert load_text_encoder(t5_file)(["a cat"]).shape == (1, 226, 32)
    with pytest.raises(CheckpointError, match="put the tokenizer folder of the model there$"):
        tokenizer_folder(t5_file, 256)


def test_a_damaged_tokenizer_is_named(folder: Path) -> None:
    pieces = folder / "tokenizer" / "spiece.model"
    whole = pieces.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"version https://git-lfs.github.com/spec/v1\n"):
        pieces.write_bytes(damaged)
        refuse(folder, "spiece.model is no whole SentencePiece model; download it again")
    pieces.write_bytes(whole)
    (folder / "tokenizer" / "tokenizer_config.json").write_text("{")
    refuse(folder, "tokenizer_config.json is no valid JSON")


def test_a_tokenizer_of_another_model_is_refused(folder: Path) -> None:
    as_one_file(folder, lambda tensors: tensors.update({"shared.weight": tensors["shared.weight"][:100].clone()}))
    refuse(folder, "has .* tokens and .* has embeddings for 100; they are not of one model")


def test_an_odd_dtype_is_refused_before_anything_is_opened(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="dtype='float3'"):
        load_text_encoder(tmp_path, dtype="float3")


@pytest.mark.parametrize(
    ("package", "message"),
    [
        ("transformers", "Prompts need the package transformers, 4.51 or newer .*; run: pip install -U transformers"),
        ("sentencepiece", "Prompts need the packages sentencepiece and protobuf"),
    ],
)
def test_a_missing_package_is_named(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, package: str, message: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=message):
        load_text_encoder(checkpoint(KIND))


def as_one_file(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Join the shards of a text encoder into one file, changed."""
    tensors = {key: tensor for shard in shards(folder) for key, tensor in load_file(shard).items()}
    for file in [*shards(folder), folder / "text_encoder" / "model.safetensors.index.json"]:
        file.unlink()
    change(tensors)
    save_file(tensors, folder / "text_encoder" / "model.safetensors")


def shards(folder: Path) -> list[Path]:
    return sorted((folder / "text_encoder").glob("*.safetensors"))


@pytest.fixture
def folder(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    """A checkpoint of the test's own, sharded, to damage."""
    source = checkpoint(KIND, sharded=True)
    for part in ("text_encoder", "tokenizer"):
        shutil.copytree(source / part, tmp_path / "model" / part)
    shutil.copy(source / "model_index.json", tmp_path / "model")
    return tmp_path / "model"
