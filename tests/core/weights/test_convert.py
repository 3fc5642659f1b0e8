"""Converting: what one form holds another holds too, and a failure leaves nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from gguf import GGUFReader
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cogvideox_core import load_transformer, load_vae
from cogvideox_core.cli import main as cli
from cogvideox_core.weights import convert
from cogvideox_core.weights.components import open_component
from cogvideox_core.weights.errors import CheckpointError
from cogvideox_core.weights.inspect import inspect
from cogvideox_core.weights.packed_weight import PackedWeight, is_quantizable
from tests.support.checkpoints import whole_model
from tests.support.parity import snr_db
from tests.support.weight_forms import QUANTIZED, RENAMED, sat_with_t5_and_vae

Checkpoint = Callable[..., Path]
KIND = "CogVideoX1.5-5B-I2V"
SMALL = {"fp8": "fp8", "int8": "int8", "q8_0": "Q8_0", "q4_0": "Q4_0"}  # form, codec
LEAST_DB = {"fp8": 28, "int8": 36, "q8_0": 40, "q4_0": 17}


@pytest.fixture(scope="module")
def model(checkpoint: Checkpoint) -> Path:
    return checkpoint(KIND, text_width=64, dtype=torch.bfloat16)


def names(form: str) -> list[str]:
    return [f"out{suffix}" for suffix in convert.FORMS[form].suffix or ("",)]


@pytest.mark.parametrize("form", convert.FORMS)
def test_a_transformer_goes_to_every_form_and_back(form: str, model: Path, tmp_path: Path) -> None:
    original = load_file(model / "transformer" / "diffusion_pytorch_model.safetensors")
    for name in names(form):
        made = convert.convert(model / "transformer", tmp_path / name, form)
        back = convert.convert(made, tmp_path / f"{name} back", "diffusers")
        assert load_transformer(made).config == load_transformer(model).config == load_transformer(back).config
        returned = load_file(back / "diffusion_pytorch_model.safetensors")
        assert returned.keys() == original.keys()
        for key, tensor in original.items():
            if form in SMALL and is_quantizable(key):
                assert snr_db(returned[key], tensor) > LEAST_DB[form], key
            else:
                assert torch.equal(returned[key], tensor), key


@pytest.mark.parametrize("form", SMALL)
def test_what_is_small_already_is_not_rounded_again(form: str, model: Path, tmp_path: Path) -> None:
    first, *others = [convert.convert(model / "transformer", tmp_path / name, form) for name in names(form)]
    again = convert.convert(first, tmp_path / "again.safetensors", form)
    once, twice = open_component(first, "transformer"), open_component(again, "transformer")
    assert set(once) == set(twice)
    for key in once:
        assert torch.equal(once[key].to(torch.float32) + 0, twice[key].to(torch.float32) + 0), key
    for other in others:
        assert set(open_component(other, "transformer")) == set(once)


def test_blocks_of_another_writer_are_copied_bit_for_bit(model: Path, tmp_path: Path) -> None:
    """Blocks that rounding again would change: no number in them is the -8 that ours have."""
    state = load_file(model / "transformer" / "diffusion_pytorch_model.safetensors")
    blocks: dict[str, torch.Tensor] = {}
    generator = torch.Generator().manual_seed(0)
    for key in filter(is_quantizable, list(state)):
        rows, columns = state.pop(key).shape
        block = torch.randint(5, 12, (rows, columns // 32, 18), generator=generator, dtype=torch.uint8) * 17
        block[..., :2] = torch.tensor([0.01], dtype=torch.float16).view(torch.uint8)
        blocks[key.removesuffix("weight") + "Q4_0_qweight"] = block.flatten(1)
    save_file(state | blocks, tmp_path / "theirs.safetensors")
    made = convert.convert(tmp_path / "theirs.safetensors", tmp_path / "made.safetensors", "q4_0")
    returned = load_file(made)
    assert blocks and all(torch.equal(returned[key], block) for key, block in blocks.items())


@pytest.mark.parametrize("part", ["vae", "text_encoder"])
def test_the_other_components_go_too(part: str, model: Path, tmp_path: Path) -> None:
    single = convert.convert(model / part, tmp_path / "one.safetensors", "single")
    back = convert.convert(single, tmp_path / part, "diffusers")
    original, returned = open_component(model / part, part), open_component(back, part)  # type: ignore[arg-type]
    assert list(original) == list(returned) and all(torch.equal(original[key], returned[key]) for key in original)
    assert inspect(back)[0].fault is None
    if part == "vae":
        assert load_vae(back).config == load_vae(model).config
        with pytest.raises(ValueError, match="is a VAE, whose convolutions are not stored in int8"):
            convert.convert(back, tmp_path / "x.safetensors", "int8")
    else:
        small = convert.convert(single, tmp_path / "small.gguf", "q8_0")
        assert inspect(small)[0].numbers["Q8_0"] > 0 and inspect(small)[0].missing == []


def test_large_models_are_written_in_parts(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert, "_SHARD_BYTES", 400_000)
    made = convert.convert(model / "transformer", tmp_path / "out", "diffusers")
    index = json.loads((made / "diffusion_pytorch_model.safetensors.index.json").read_text())
    shards = sorted(made.glob("*-of-*.safetensors"))
    assert len(shards) > 2 and {file.name for file in shards} == set(index["weight_map"].values())
    assert index["metadata"]["total_size"] == sum(
        tensor.nbytes for file in shards for tensor in load_file(file).values()
    )
    assert load_transformer(made).config == load_transformer(model).config


def test_a_dtype_can_be_asked_for(model: Path, tmp_path: Path) -> None:
    made = convert.convert(model / "transformer", tmp_path / "a.safetensors", "single", dtype=torch.float16)
    assert {tensor.dtype for tensor in load_file(made).values()} == {torch.float16}


def test_comfyui_and_llama_cpp_find_what_they_look_for(model: Path, tmp_path: Path) -> None:
    with safe_open(convert.convert(model / "transformer", tmp_path / "a.safetensors", "int8"), "pt") as file:
        layer = "transformer_blocks.0.ff.net.2."
        note = json.loads(bytes(file.get_tensor(layer + "comfy_quant").tolist()))
        assert note == {"format": "int8_tensorwise"}
        assert file.get_tensor(layer + "weight").dtype == torch.int8
        assert file.get_tensor(layer + "weight_scale").shape == (128, 1)
    tensors = {
        part.name: part
        for part in GGUFReader(convert.convert(model / "transformer", tmp_path / "a.gguf", "q4_0")).tensors
    }
    assert tensors[layer + "weight"].tensor_type.name == "Q4_0" and list(tensors[layer + "weight"].shape) == [512, 128]


def test_a_target_that_does_not_fit_is_told_and_nothing_is_lost(model: Path, tmp_path: Path) -> None:
    source = model / "transformer"
    (tmp_path / "there.safetensors").write_text("mine")
    for name, form, error, told in (
        ("there.safetensors", "single", FileExistsError, "exists already; name another, or remove it first"),
        (
            "a.pt",
            "single",
            ValueError,
            "a.pt for single, which is written to a file; name one that ends in .safetensors",
        ),
        ("a.safetensors", "q9", ValueError, "'q9' is no form of weights; take one of diffusers, single"),
        ("nowhere/a.gguf", "q8_0", FileNotFoundError, "there is no folder .*nowhere for a.gguf; make it first"),
    ):
        with pytest.raises(error, match=told):
            convert.convert(source, tmp_path / name, form)
    with pytest.raises(CheckpointError, match="give a transformer, a VAE or a T5 text encoder"):
        save_file({"x": torch.ones(2)}, tmp_path / "x.safetensors")
        convert.convert(tmp_path / "x.safetensors", tmp_path / "y.safetensors", "single")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there.safetensors", "x.safetensors"]
    assert (tmp_path / "there.safetensors").read_text() == "mine"


@pytest.mark.parametrize("form", ["single", "diffusers", "gguf"])
def test_a_writing_that_fails_leaves_nothing(
    form: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(done: int, total: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        convert.convert(model / "transformer", tmp_path / names(form)[0], form, progress=stop)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", ["single", "int8", "q4_0", "diffusers"])
def test_progress_ends_where_it_said_it_would(form: str, model: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    convert.convert(
        model / "transformer", tmp_path / names(form)[-1], form, progress=lambda done, total: told.append((done, total))
    )
    assert len({total for _, total in told}) == 1
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1][0] == told[-1][1] > 0


@pytest.mark.parametrize("form", [*RENAMED, *QUANTIZED])
def test_every_form_becomes_a_folder_of_the_same_numbers(form: str, model: Path, tmp_path: Path) -> None:
    state = load_file(model / "transformer" / "diffusion_pytorch_model.safetensors")
    write = RENAMED[form] if form in RENAMED else QUANTIZED[form][0]
    source = write(state, tmp_path)
    back = convert.convert(source, tmp_path / "back", "diffusers", dtype=torch.bfloat16)
    opened = open_component(source, "transformer")
    returned = load_file(back / "diffusion_pytorch_model.safetensors")
    assert returned.keys() == state.keys()
    for key, tensor in returned.items():
        read = opened[key]
        wanted = read.dequantize(torch.bfloat16) if isinstance(read, PackedWeight) else read.to(torch.bfloat16)
        assert torch.equal(tensor, wanted), key
        if form in RENAMED:
            assert torch.equal(tensor, state[key]), key


def test_each_part_of_a_file_with_several_is_converted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    transformer, vae, text_encoder = whole_model()
    parts = {"transformer": transformer, "vae": vae, "text_encoder": text_encoder}
    run = sat_with_t5_and_vae(transformer, vae, text_encoder, tmp_path)
    caplog.set_level("INFO", "cogvideox")
    made = {None: convert.convert(run, tmp_path / "default.safetensors", "single")}
    assert "holds transformer, vae, text_encoder; transformer is converted, --component chooses another" in caplog.text
    for component, wanted in parts.items():
        made[component] = convert.convert(run, tmp_path / f"{component}.safetensors", "single", component=component)
        converted = load_file(made[component])
        assert converted.keys() == wanted.keys()
        assert not [key for key, tensor in wanted.items() if not torch.equal(converted[key], tensor)]
    assert made[None].read_bytes() == made["transformer"].read_bytes()
    (found,) = inspect(made["vae"])
    assert not (found.fault or found.missing or found.unexpected)
    with pytest.raises(CheckpointError, match="vae.safetensors holds no text_encoder; it holds vae, take one of these"):
        convert.convert(made["vae"], tmp_path / "none.safetensors", "single", component="text_encoder")


def test_a_part_of_a_whole_folder_is_converted(model: Path, tmp_path: Path) -> None:
    made = convert.convert(model, tmp_path / "vae.safetensors", "single", component="vae")
    assert load_file(made).keys() == load_file(model / "vae" / "diffusion_pytorch_model.safetensors").keys()
    with pytest.raises(CheckpointError, match="is a whole diffusers folder; give one of its components"):
        convert.convert(model, tmp_path / "any.safetensors", "single")


def test_comfyuis_marker_stays_behind(model: Path, tmp_path: Path) -> None:
    state = load_file(model / "transformer" / "diffusion_pytorch_model.safetensors")
    save_file(state | {"v_pred": torch.zeros(0)}, tmp_path / "saved.safetensors")
    back = convert.convert(tmp_path / "saved.safetensors", tmp_path / "back", "diffusers")
    assert load_file(back / "diffusion_pytorch_model.safetensors").keys() == state.keys()


def test_what_a_gguf_file_cannot_hold_is_told_before_it_is_written(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="whose convolutions are not stored in gguf; take diffusers or single"):
        convert.convert(model / "vae", tmp_path / "vae.gguf", "gguf")
    with pytest.raises(ValueError, match="dtype torch.float64 for a.gguf; .gguf files hold float32, float16"):
        convert.convert(model / "transformer", tmp_path / "a.gguf", "gguf", dtype=torch.float64)
    assert list(tmp_path.iterdir()) == []


def test_plain_fp8_goes_into_a_gguf_file(model: Path, tmp_path: Path) -> None:
    """Its biases are in 8 bits too, which GGML has no name for."""
    state = load_file(model / "transformer" / "diffusion_pytorch_model.safetensors")
    source = QUANTIZED["fp8"][0](state, tmp_path)
    made = convert.convert(source, tmp_path / "a.gguf", "gguf")
    ours, theirs = load_transformer(made, dtype="float32"), load_transformer(source, dtype="float32")
    for (key, one), other in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        assert torch.equal(torch.as_tensor(one + 0), torch.as_tensor(other + 0)), key


# --- The commands -------------------------------------------------------------------------------------------------


def test_the_commands_convert_and_tell(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "small.safetensors"
    assert cli.main(["convert", str(model / "transformer"), str(target), "--to", "int8"]) == 0
    assert capsys.readouterr().out.strip() == str(target)
    assert cli.main(["inspect", str(target), str(model)]) == 0
    told = capsys.readouterr().out
    assert told.count("a CogVideoX transformer of the build of CogVideoX1.5-5B-I2V") == 2 and "int8" in told
    assert cli.main(["convert", str(model / "transformer"), str(target), "--to", "int8"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert cli.main(["inspect", str(tmp_path / "nothing")]) == 2
    assert "does not exist; give a .safetensors" in capsys.readouterr().err
