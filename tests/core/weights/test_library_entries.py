"""Quantized weights of bitsandbytes, torchao and quanto: what the library itself makes of its file, or a sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from cogvideox_core import load_text_encoder, load_transformer
from cogvideox_core.weights.components import open_component
from cogvideox_core.weights.convert import convert
from cogvideox_core.weights.errors import CheckpointError
from cogvideox_core.weights.files import open_weights
from cogvideox_core.weights.library_entries import with_common_parts
from cogvideox_core.weights.packed_weight import PackedWeight
from tests.support.checkpoints import make_checkpoint, random_transformer, toy_transformer_config
from tests.support.parity import assert_parity
from tests.support.toy_transformers import output, state_of
from tests.support.weight_forms import (
    QUANTIZED,
    Writer,
    bitsandbytes_4_bits,
    is_quantizable,
    prefixed,
    quanto,
    torchao,
)

KIND = "CogVideoX-5B"
MODULE = "transformer_blocks.1.ff.net.2"
KEY = f"{MODULE}.weight"
NF4, NESTED = "nf4 of bitsandbytes", "nf4 of bitsandbytes, nested"
INT8, TORCHAO, QUANTO = "int8 of bitsandbytes", "int8 of torchao", "int8 of quanto"


def dense(path: Path) -> dict[str, Tensor]:
    """Every weight of a transformer as it is decoded, in float32."""
    opened = open_component(path, "transformer")
    return {key: opened[key].to(torch.float32) + 0 for key in opened}


def written(form: str, tmp_path: Path) -> tuple[Path, dict[str, Tensor], dict[str, str]]:
    """A file in that form, its tensors and the notes in its header."""
    path = QUANTIZED[form][0](state_of(KIND), tmp_path)
    with safe_open(path, framework="pt") as file:
        return path, load_file(path), file.metadata() or {}


# --- The libraries' own numbers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocksize", [64, 256])
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("width", [32, 96])  # of the prompts, by which the rows of some matrices are no whole blocks
def test_nf4_is_what_bitsandbytes_makes_of_it(width: int, nested: bool, blocksize: int, tmp_path: Path) -> None:
    """Also where a scale serves parts of several rows, as of matrices that are narrower than a block."""
    functional = pytest.importorskip("bitsandbytes.functional")
    name = "transformer_blocks.0.ff.net.0.proj.weight"
    state = {name: torch.randn(50, width, generator=torch.Generator().manual_seed(0))}
    path = bitsandbytes_4_bits("nf4", nested, blocksize)(state, tmp_path)
    tensors = load_file(path)
    parts = {key.removeprefix(name + "."): tensor for key, tensor in tensors.items() if key != name}
    note = functional.QuantState.from_dict(parts, torch.device("cpu"))
    note.shape = torch.Size(
        [1, 50 * width]
    )  # bitsandbytes' CPU kernel begins a block with each row, on no card it does
    wanted = functional.dequantize_4bit(tensors[name], note).reshape(50, width)
    opened = open_component(path, "transformer")
    assert opened.shapes == {name: (50, width)} and isinstance(opened[name], PackedWeight)
    assert torch.equal(opened[name].to(torch.float32) + 0, wanted.float())


def test_packed_bytes_may_be_stored_as_other_numbers(tmp_path: Path) -> None:
    """As bnb_4bit_quant_storage has it, for training on several cards."""
    path, tensors, _ = written(NF4, tmp_path)
    wanted = dense(path)
    packed = {key: tensor.view(-1, 2).view(torch.bfloat16) for key, tensor in tensors.items() if is_quantizable(key)}
    save_file(tensors | packed, path)
    assert all(torch.equal(tensor, wanted[key]) for key, tensor in dense(path).items())


def test_llm_int8_is_what_bitsandbytes_makes_of_it(tmp_path: Path) -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    path, tensors, _ = written(INT8, tmp_path)
    found = dense(path)
    for key in filter(is_quantizable, found):
        wanted = functional.int8_vectorwise_dequant(tensors[key], tensors[key.replace(".weight", ".SCB")])
        torch.testing.assert_close(found[key], wanted, rtol=1e-6, atol=0)


@pytest.mark.parametrize("options", [{"group_size": None}, {"group_size": 32}])
def test_int8_is_what_torchao_makes_of_it(options: dict[str, Any], tmp_path: Path) -> None:
    quantization = pytest.importorskip("torchao.quantization")
    granularity = quantization.PerGroup(32) if options["group_size"] else quantization.PerRow()
    config = quantization.Int8WeightOnlyConfig(granularity=granularity)
    _saved_by_diffusers("TorchAoConfig", config, tmp_path, torchao("Int8Tensor", options["group_size"]))


def test_fp8_is_what_torchao_makes_of_it(tmp_path: Path) -> None:
    quantization = pytest.importorskip("torchao.quantization")
    _saved_by_diffusers("TorchAoConfig", quantization.Float8WeightOnlyConfig(), tmp_path, torchao("Float8Tensor"))


@pytest.mark.parametrize("name", ["int8", "float8"])
def test_8_bits_are_what_quanto_makes_of_them(name: str, tmp_path: Path) -> None:
    pytest.importorskip("optimum.quanto")
    dtype = torch.int8 if name == "int8" else torch.float8_e4m3fn
    _saved_by_diffusers("QuantoConfig", name, tmp_path, quanto(dtype))


def _saved_by_diffusers(config_class: str, config: Any, tmp_path: Path, writer: Writer) -> None:
    """A folder that diffusers quantizes and saves: its numbers are diffusers', and its keys those of our writer."""
    import diffusers

    model = random_transformer(toy_transformer_config(KIND, text_width=64))
    model.save_pretrained(tmp_path / "plain")
    options: Any = {"quantization_config": getattr(diffusers, config_class)(config), "torch_dtype": torch.float32}
    theirs = diffusers.CogVideoXTransformer3DModel.from_pretrained(tmp_path / "plain", **options)
    theirs.save_pretrained(tmp_path / "quantized")
    found = dense(tmp_path / "quantized")
    for key, tensor in theirs.state_dict(keep_vars=True).items():
        if key in found:
            plain = tensor.dequantize() if hasattr(tensor, "dequantize") else tensor
            torch.testing.assert_close(found[key], plain.detach().float(), rtol=1e-6, atol=1e-7)
    ours = load_file(writer(model.state_dict(), tmp_path))
    saved = load_file(tmp_path / "quantized" / "diffusion_pytorch_model.safetensors")
    described = {key: (tensor.dtype, tensor.shape) for key, tensor in saved.items() if key in ours}
    large = {key for key in ours if MODULE in key}
    assert large == {key for key in saved if MODULE in key}
    assert {key: described[key] for key in large} == {key: (ours[key].dtype, ours[key].shape) for key in large}


# --- Folders ----------------------------------------------------------------------------------------------------------

FOLDERS = {  # what the config.json says of them, in the parts that count
    NF4: {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    INT8: {"quant_method": "bitsandbytes", "load_in_8bit": True},
    TORCHAO: {"quant_method": "torchao", "quant_type": {}},
    QUANTO: {"quant_method": "quanto", "weights_dtype": "int8"},
}


def folder_of(form: str, tmp_path: Path, config: dict[str, Any]) -> Path:
    """A transformer's folder as diffusers saves it."""
    folder = tmp_path / "transformer"
    folder.mkdir(exist_ok=True)
    QUANTIZED[form][0](state_of(KIND), folder).rename(folder / "diffusion_pytorch_model.safetensors")
    shape = toy_transformer_config(KIND, text_width=64)
    (folder / "config.json").write_text(json.dumps({**shape, "quantization_config": config}))
    return folder


@pytest.mark.parametrize("form", FOLDERS)
def test_a_quantized_folder_runs_and_becomes_a_plain_one(form: str, tmp_path: Path) -> None:
    from diffusers import CogVideoXTransformer3DModel

    folder = folder_of(form, tmp_path, FOLDERS[form])
    plain = convert(folder, tmp_path / "plain", "diffusers", dtype=torch.float32)
    assert "quantization_config" not in json.loads((plain / "config.json").read_text())
    theirs = CogVideoXTransformer3DModel.from_pretrained(plain)
    ours = output(load_transformer(folder, dtype="float32"))
    assert_parity(ours, output(load_transformer(prefixed("")(theirs.state_dict(), tmp_path))), 1e-5, form)


def test_a_convolution_may_be_quantized_too(tmp_path: Path) -> None:
    """quanto's own function quantizes every layer that it knows."""
    name = "patch_embed.proj.weight"
    tensors = state_of(KIND)
    scale = tensors[name].abs().amax(dim=(1, 2, 3), keepdim=True) / 127
    data = (tensors[name] / scale).round()
    expected = prefixed("")({**tensors, name: data * scale}, tmp_path)
    reference = output(load_transformer(expected, dtype="float32"))
    tensors |= {f"{name}._data": data.to(torch.int8), f"{name}._scale": scale}
    del tensors[name]
    found = load_transformer(prefixed("")(tensors, tmp_path), dtype="float32")
    assert_parity(output(found), reference, 1e-6, "a quantized convolution")


def test_a_shard_may_hold_the_scales_of_another(tmp_path: Path) -> None:
    folder = folder_of(TORCHAO, tmp_path, FOLDERS[TORCHAO])
    whole, path = dense(folder), folder / "diffusion_pytorch_model.safetensors"
    with safe_open(path, framework="pt") as file:
        notes, tensors = file.metadata(), load_file(path)
    names = {True: "diffusion_pytorch_model-00001-of-00002", False: "diffusion_pytorch_model-00002-of-00002"}
    shard_of = {key: f"{names['scale' in key]}.safetensors" for key in tensors}
    for name in set(shard_of.values()):
        save_file({key: tensor for key, tensor in tensors.items() if shard_of[key] == name}, folder / name, notes)
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": shard_of}))
    path.unlink()
    assert all(torch.equal(tensor, whole[key]) for key, tensor in dense(folder).items())


@pytest.mark.parametrize("form", FOLDERS)
def test_a_quantized_t5_encodes_as_the_one_of_its_numbers(form: str, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "model", KIND, text_width=64)
    path = folder / "text_encoder" / "model.safetensors"
    state = load_file(path)
    QUANTIZED[form][0](state, tmp_path).rename(path)
    opened = open_component(folder / "text_encoder", "text_encoder")
    assert {opened.entries[key].codec for key in filter(is_quantizable, state)} == {form.split()[0]}
    found, numbers = load_text_encoder(folder)(["a red circle"]), {key: opened[key].float() + 0 for key in opened}
    save_file({key: tensor.contiguous() for key, tensor in numbers.items()}, path)
    assert_parity(found, load_text_encoder(folder)(["a red circle"]), 1e-5, f"T5 in {form}")


# --- What is not read -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["gptq", "quark", "sdnq", "modelopt", "nunchaku_lite"])
def test_a_method_that_is_not_read_is_named_with_what_to_take(method: str, tmp_path: Path) -> None:
    folder = folder_of(NF4, tmp_path, {"quant_method": method})
    with pytest.raises(CheckpointError, match=f"transformer is quantized by {method}, which is not read; give int8"):
        load_transformer(folder)


def test_quanto_in_4_bits_is_told(tmp_path: Path) -> None:
    path, tensors, _ = written(QUANTO, tmp_path)
    data = tensors.pop(f"{KEY}._data")
    packed = {f"{KEY}._data._data": data[:64].view(torch.uint8), f"{KEY}._shift": torch.ones(128, 1)}
    save_file(tensors | packed, path)
    with pytest.raises(
        CheckpointError, match=f"holds {KEY} in quanto's 2 or 4 bits, which is not read; give int8, fp8"
    ):
        load_transformer(path)


@pytest.mark.parametrize("kind", ["Int4Tensor", "NVFP4Tensor", None])
def test_torchaos_other_classes_are_told(kind: str | None, tmp_path: Path) -> None:
    path, tensors, notes = written(TORCHAO, tmp_path)
    save_file(tensors, path, notes | {KEY: json.dumps({"_type": kind} if kind else {})})
    with pytest.raises(CheckpointError, match=f"holds {KEY} in torchao's {kind}, which is not read; give int8"):
        load_transformer(path)
    save_file(tensors, path, {key: note for key, note in notes.items() if key != KEY})
    with pytest.raises(CheckpointError, match=f"holds a note of torchao on {KEY} that is no JSON object; download"):
        load_transformer(path)


def test_zero_points_are_told(tmp_path: Path) -> None:
    path, tensors, notes = written(TORCHAO, tmp_path)
    tensors[f"{MODULE}._weight_zero_point"][3] = 1
    save_file(tensors, path, notes)
    with pytest.raises(CheckpointError, match=f"holds {KEY} in torchao's Int8Tensor with zero points, which is not"):
        load_transformer(path)


def test_a_pickle_of_torchaos_tensors_is_told(tmp_path: Path) -> None:
    code = b"\x80\x02}X\x01\x00\x00\x00actorchao.quantization\nInt8Tensor\ns."  # {"a": that class}
    (tmp_path / "diffusion_pytorch_model.bin").write_bytes(code)
    with pytest.raises(CheckpointError, match="is a pickle of torchao's tensors, .*; give the weights as .safetensors"):
        load_transformer(tmp_path)


# --- Damage -----------------------------------------------------------------------------------------------------------

PARTS = {
    NF4: ["weight", "weight.absmax"],
    NESTED: ["weight", "weight.absmax", "weight.nested_absmax", "weight.nested_quant_map"],
    INT8: ["weight"],
    TORCHAO: ["_weight_scale"],
    QUANTO: ["weight._scale"],
}


@pytest.mark.parametrize(("form", "part"), [(form, part) for form, parts in PARTS.items() for part in parts])
def test_a_lost_part_is_named(form: str, part: str, tmp_path: Path) -> None:
    path, tensors, notes = written(form, tmp_path)
    tensors.pop(f"{MODULE}.{part}")
    save_file(tensors, path, notes)
    with pytest.raises(CheckpointError, match=rf"holds parts of the quantized weight of {MODULE} and no {part}; downl"):
        load_transformer(path)


@pytest.mark.parametrize("part", ["absmax", "nested_absmax", "nested_quant_map"])
def test_parts_of_other_sizes_are_told(part: str, tmp_path: Path) -> None:
    path, tensors, _ = written(NESTED, tmp_path)
    tensors[f"{KEY}.{part}"] = (whole := tensors[f"{KEY}.{part}"])[:-1].contiguous()
    save_file(tensors, path)
    told = f"holds {len(whole) - 1} values of {KEY}.{part} in place of {len(whole)}; download it again"
    with pytest.raises(CheckpointError, match=told):
        load_transformer(path)
    tensors[KEY] = tensors[KEY][:-8].contiguous()
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=rf"holds {KEY} of shape \[32760, 1\], which are no 128 x 512 num"):
        load_transformer(path)


STATES: dict[str, Callable[[dict[str, Any]], object]] = {
    "no shape": lambda note: note.pop("shape"),
    "three sizes": lambda note: note.update(shape=[1, 2, 3]),
    "no sizes": lambda note: note.update(shape=[0, -4]),
    "words": lambda note: note.update(blocksize="many"),
    "infinite": lambda note: note.update(blocksize=float("inf")),
    "no block": lambda note: note.update(blocksize=0),
    "another type": lambda note: note.update(quant_type="fp4"),
    "nested scales": lambda note: note.update(nested_blocksize=256),
}


@pytest.mark.parametrize("damage", STATES)
def test_a_wrong_note_of_4_bits_is_told(damage: str, tmp_path: Path) -> None:
    path, tensors, _ = written(NF4, tmp_path)
    key = f"{KEY}.quant_state.bitsandbytes__nf4"
    note = json.loads(bytes(tensors[key].tolist()))
    STATES[damage](note)
    save_file(tensors | {key: torch.tensor(list(json.dumps(note).encode()), dtype=torch.uint8)}, path)
    with pytest.raises(CheckpointError, match=rf"holds a {key} (that is not of these numbers|without its sizes)"):
        load_transformer(path)
    save_file(tensors | {key: tensors[key][:9].contiguous()}, path)
    with pytest.raises(CheckpointError, match=rf"holds a {key} that is no JSON object; download it again"):
        load_transformer(path)


def test_4_bits_without_any_note_are_told(tmp_path: Path) -> None:
    path, tensors, _ = written(NF4, tmp_path)
    save_file({key: tensor for key, tensor in tensors.items() if "quant_state" not in key}, path)
    with pytest.raises(CheckpointError, match="is weights quantized by bitsandbytes, .* lacks their quant_state"):
        load_transformer(path)


def test_int8_in_the_order_of_a_card_is_told(tmp_path: Path) -> None:
    path, tensors, _ = written(INT8, tmp_path)
    tensors[f"{MODULE}.weight_format"] += 1
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=f"holds {KEY} in the order of one kind of card, which is not read; give"):
        load_transformer(path)


def test_weights_that_no_library_wrote_stay_as_they_are(tmp_path: Path) -> None:
    weights = open_weights(prefixed("")(state_of(KIND), tmp_path))
    assert with_common_parts(weights) is weights
