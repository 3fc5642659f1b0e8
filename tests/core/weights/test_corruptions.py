"""Damaged checkpoints, drawn by a seed: each ends in one sentence, and nothing of it is executed."""

from __future__ import annotations

import json
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cogvideox_core import load_lora, load_pipeline
from cogvideox_core.models.config import TransformerConfig
from cogvideox_core.models.transformer.model import CogVideoXTransformer3D
from cogvideox_core.weights.errors import CheckpointError
from cogvideox_core.weights.load import load_transformer, load_vae
from tests.support.checkpoints import random_transformer, toy_transformer_config
from tests.support.trainer_folders import deepspeed_folder, shards
from tests.support.weight_files import refuse_mapping, resident_mib
from tests.support.weight_forms import QUANTIZED, RENAMED, Writer, k_blocks, random_states

SEEDS = range(4)
KINDS = ("CogVideoX-2B", "CogVideoX-5B-I2V", "CogVideoX1.5-5B-I2V", "CogVideoX-5B")
SHOWN = ("num_layers", "num_attention_heads", "in_channels", "text_embed_dim", "time_embed_dim", "patch_size")
Corruption = Callable[[Path, random.Random], None]
ONE: dict[str, Corruption] = {}
SHARDS: dict[str, Corruption] = {}


def corruption(table: dict[str, Corruption]) -> Callable[[Corruption], Corruption]:
    def register(function: Corruption) -> Corruption:
        table[function.__name__] = function
        return function

    return register


def weight_files(folder: Path) -> list[Path]:
    """The files of weights, which a folder has in one format."""
    return sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))


def weight_file(folder: Path, draw: random.Random) -> Path:
    return draw.choice(weight_files(folder))


def read(path: Path) -> dict[str, Tensor]:
    return load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)


def write(tensors: dict[str, Tensor], path: Path) -> None:
    save_file(tensors, path) if path.suffix == ".safetensors" else torch.save(tensors, path)


def edit(folder: Path, draw: random.Random, change: Callable[[dict[str, Tensor], str], object]) -> None:
    path = weight_file(folder, draw)
    tensors = read(path)
    change(tensors, draw.choice(sorted(tensors)))
    write(tensors, path)


def edit_json(path: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def index_of(folder: Path) -> Path:
    return next(folder.glob("*.index.json"))


@corruption(ONE)
@corruption(SHARDS)
def cut(folder: Path, draw: random.Random) -> None:
    path = weight_file(folder, draw)
    content = path.read_bytes()
    path.write_bytes(content[: draw.randrange(len(content))])


@corruption(ONE)
@corruption(SHARDS)
def trailing_bytes(folder: Path, draw: random.Random) -> None:
    path = weight_file(folder, draw)
    path.write_bytes(path.read_bytes() + bytes(draw.randrange(1, 999)))


@corruption(ONE)
def flipped_header_bit(folder: Path, draw: random.Random) -> None:
    path = weight_file(folder, draw)
    content = bytearray(path.read_bytes())
    used = content[8 : 8 + int.from_bytes(content[:8], "little")].rstrip()
    content[8 + draw.randrange(len(used))] ^= 1 << draw.randrange(7)
    path.write_bytes(content)


@corruption(ONE)
def wrong_header_length(folder: Path, draw: random.Random) -> None:
    path = weight_file(folder, draw)
    content = path.read_bytes()
    wrong = int.from_bytes(content[:8], "little") + draw.choice([-9, -1, 1, 7, 2**20, 2**62])
    path.write_bytes(wrong.to_bytes(8, "little") + content[8:])


@corruption(ONE)
def noise(folder: Path, draw: random.Random) -> None:
    weight_file(folder, draw).write_bytes(draw.randbytes(draw.randrange(4000)))


@corruption(ONE)
def a_pickle_of_that_name(folder: Path, draw: random.Random) -> None:
    trap = (Path.touch, (folder / "executed",))
    content = pickle.dumps(type("Trap", (), {"__reduce__": lambda self: trap})(), protocol=draw.randrange(2, 6))
    weight_file(folder, draw).write_bytes(content + bytes(draw.randrange(99)))


@corruption(ONE)
@corruption(SHARDS)
def a_pickle_instead(folder: Path, draw: random.Random) -> None:
    path = weight_file(folder, draw)
    path.unlink()
    path.with_suffix(draw.choice([".bin", ".pt"])).write_bytes(b"\x80\x04.")


@corruption(ONE)
@corruption(SHARDS)
def lost_tensor(folder: Path, draw: random.Random) -> None:
    edit(folder, draw, lambda tensors, key: tensors.pop(key))


@corruption(ONE)
@corruption(SHARDS)
def renamed_tensor(folder: Path, draw: random.Random) -> None:
    edit(folder, draw, lambda tensors, key: tensors.update({key[::-1]: tensors.pop(key)}))


@corruption(ONE)
@corruption(SHARDS)
def stranger(folder: Path, draw: random.Random) -> None:
    edit(folder, draw, lambda tensors, key: tensors.update({key + "_": torch.zeros(2)}))


@corruption(ONE)
@corruption(SHARDS)
def another_shape(folder: Path, draw: random.Random) -> None:
    def reshape(tensors: dict[str, Tensor], key: str) -> None:
        tensor = tensors[key]
        tensors[key] = draw.choice([tensor[:-1], tensor[:0], tensor[None], tensor.flatten()[0]]).contiguous()

    edit(folder, draw, reshape)


@corruption(ONE)
@corruption(SHARDS)
def whole_numbers(folder: Path, draw: random.Random) -> None:
    dtype = draw.choice([torch.int8, torch.int32, torch.bool, torch.uint8])
    edit(folder, draw, lambda tensors, key: tensors.update({key: tensors[key].to(dtype)}))


@corruption(ONE)
def lost_block(folder: Path, draw: random.Random) -> None:
    def drop(tensors: dict[str, Tensor], _: str) -> None:
        for key in [key for key in tensors if key.startswith("transformer_blocks.0.")]:
            del tensors[key]

    edit(folder, draw, drop)


@corruption(ONE)
def no_tensors(folder: Path, draw: random.Random) -> None:
    edit(folder, draw, lambda tensors, _: tensors.clear())


@corruption(ONE)
def no_file(folder: Path, draw: random.Random) -> None:
    weight_file(folder, draw).unlink()


@corruption(ONE)
def contradicting_config(folder: Path, draw: random.Random) -> None:
    name = draw.choice(SHOWN)
    edit_json(folder / "config.json", lambda config: config.update({name: config[name] + draw.randrange(1, 9)}))


@corruption(ONE)
def config_of_wrong_types(folder: Path, draw: random.Random) -> None:
    wrong = draw.choice(["42", [1], {}, -1, 0, True, 1.5])
    edit_json(folder / "config.json", lambda config: config.update({draw.choice(SHOWN): wrong}))


@corruption(ONE)
def cut_config(folder: Path, draw: random.Random) -> None:
    text = (folder / "config.json").read_text().rstrip()
    (folder / "config.json").write_text(text[: draw.randrange(len(text))])


@corruption(ONE)
def config_that_is_no_object(folder: Path, draw: random.Random) -> None:
    (folder / "config.json").write_bytes(draw.choice([b"3", b"[]", b'"x"', b"null", b"\xff\xfe", b"[" * 50_000]))


@corruption(SHARDS)
def missing_shard(folder: Path, draw: random.Random) -> None:
    weight_file(folder, draw).unlink()


@corruption(SHARDS)
def swapped_shards(folder: Path, draw: random.Random) -> None:
    first, second = draw.sample(weight_files(folder), 2)
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


@corruption(SHARDS)
def tensor_in_two_shards(folder: Path, draw: random.Random) -> None:
    first, second = draw.sample(weight_files(folder), 2)
    write(read(first) | read(second), second)


@corruption(SHARDS)
def shard_outside(folder: Path, draw: random.Random) -> None:
    def lead_out(index: dict) -> None:
        key = draw.choice(sorted(index["weight_map"]))
        prefix = draw.choice(["../transformer/", "./", "/tmp/", "..\\"])
        index["weight_map"][key] = prefix + index["weight_map"][key]

    edit_json(index_of(folder), lead_out)


@corruption(SHARDS)
def index_of_strange_values(folder: Path, draw: random.Random) -> None:
    def garble(index: dict) -> None:
        index["weight_map"][draw.choice(sorted(index["weight_map"]))] = draw.choice(
            [None, 3, [], {}, "", "x.bin", ".."]
        )

    edit_json(index_of(folder), garble)


@corruption(SHARDS)
def index_with_a_key_too_many(folder: Path, draw: random.Random) -> None:
    name = weight_file(folder, draw).name
    edit_json(index_of(folder), lambda index: index["weight_map"].update({"absent": name}))


@corruption(SHARDS)
def cut_index(folder: Path, draw: random.Random) -> None:
    text = index_of(folder).read_text().rstrip()
    index_of(folder).write_text(text[: draw.randrange(len(text))])


@corruption(SHARDS)
def index_without_map(folder: Path, draw: random.Random) -> None:
    wrong = draw.choice([None, [], {}, 3])
    edit_json(index_of(folder), lambda index: index.update(weight_map=wrong))


def ends_in_one_sentence(folder: Path, load: Callable[[Path], object]) -> None:
    before = {path.name for path in folder.parent.rglob("*")}
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    message = str(caught.value)
    assert str(folder) in message and message.isprintable() and "; " in message and ". " not in message, message
    assert len(message) < 1500
    assert {path.name for path in folder.parent.rglob("*")} == before


@pytest.fixture
def copied(checkpoint: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """A component of a toy to spoil, its headers free of comments nobody reads."""

    def copy(kind: str, component: str = "transformer", **options: object) -> Path:
        folder = tmp_path / component
        shutil.copytree(checkpoint(kind, **options) / component, folder)
        for path in folder.glob("*.safetensors"):
            save_file(load_file(path), path)
        return folder

    return copy


@pytest.fixture(scope="module")
def pickled(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """A folder to spoil of .bin in shards, written by diffusers."""
    model = random_transformer(toy_transformer_config("CogVideoX-5B"))
    written = shards(safe_serialization=False)(model, tmp_path_factory.mktemp("pickled"))
    return lambda place: Path(shutil.copytree(written, place / "transformer"))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", ONE)
def test_a_damaged_file_ends_in_one_sentence(copied: Callable[..., Path], name: str, seed: int) -> None:
    folder = copied(KINDS[seed % len(KINDS)])
    load_transformer(folder)
    ONE[name](folder, random.Random(f"{name} {seed}"))
    ends_in_one_sentence(folder, load_transformer)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", SHARDS)
def test_a_damaged_set_of_shards_ends_in_one_sentence(copied: Callable[..., Path], name: str, seed: int) -> None:
    folder = copied("CogVideoX-5B-I2V", sharded=True)
    load_transformer(folder)
    SHARDS[name](folder, random.Random(f"{name} {seed}"))
    ends_in_one_sentence(folder, load_transformer)


# A zip archive may have bytes behind it.
PICKLED = [name for name in SHARDS if name != "trailing_bytes"]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", PICKLED)
def test_a_damaged_set_of_pickled_shards_ends_in_one_sentence(
    pickled: Callable[[Path], Path], name: str, seed: int, tmp_path: Path
) -> None:
    folder = pickled(tmp_path)
    load_transformer(folder)
    SHARDS[name](folder, random.Random(f"{name} {seed}"))
    ends_in_one_sentence(folder, load_transformer)


@pytest.mark.parametrize("seed", SEEDS[:2])
@pytest.mark.parametrize("name", ONE)
def test_a_damaged_file_that_cannot_be_mapped_ends_in_one_sentence(
    copied: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, name: str, seed: int
) -> None:
    folder = copied(KINDS[seed])
    ONE[name](folder, random.Random(f"unmapped {name} {seed}"))
    refuse_mapping(monkeypatch)
    ends_in_one_sentence(folder, load_transformer)


@pytest.mark.parametrize("name", ["cut", "lost_tensor", "renamed_tensor", "stranger", "another_shape", "whole_numbers"])
def test_a_damaged_vae_ends_in_one_sentence(copied: Callable[..., Path], name: str) -> None:
    folder = copied("CogVideoX-5B", "vae")
    load_vae(folder)
    ONE[name](folder, random.Random(name))
    ends_in_one_sentence(folder, load_vae)


# --- Other forms ----------------------------------------------------------------------------------------------------

FORMS: dict[str, Writer] = {
    "prefix": RENAMED["prefix model.diffusion_model."],
    "comfyui": RENAMED["comfyui"],
    "sat": RENAMED["sat"],
    "sat after training": RENAMED["sat after training"],
    "deepspeed": deepspeed_folder,
    **{name: QUANTIZED[name][0] for name in ("fp8", "fp8_scaled", "int8", "Q4_0 in safetensors", "Q5_0.gguf")},
    **{f"{name}.gguf": k_blocks(name) for name in ("Q5_K", "IQ3_S")},
    **{name: write for name, (write, _) in QUANTIZED.items() if " of " in name},
}
STATES: dict[str, Callable[[dict[str, Tensor], str], object]] = {
    "lost": lambda state, key: state.pop(key),
    "renamed": lambda state, key: state.update({key[::-1]: state.pop(key)}),
    "strange": lambda state, key: state.update({"transformer_blocks.0.strange.weight": torch.zeros(2, 64)}),
    "short": lambda state, key: state.update({key: state[key][:-1]}),
}


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    config = toy_transformer_config("CogVideoX1.5-5B", text_width=64)
    return random_transformer(config).state_dict()


def one_file(path: Path) -> Path:
    """The file that holds the weights: SAT's and DeepSpeed's lies in a folder."""
    return path if path.is_file() else next(path.rglob("*model_states.pt"))


# SAT's file is made of the others' tensors, so that only their shapes can be wrong on the way there.
DAMAGED = [(form, damage) for form in FORMS for damage in STATES if "sat" not in form or damage == "short"]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("form", "damage"), DAMAGED)
def test_wrong_tensors_in_any_form_end_in_one_sentence(
    state: dict[str, Tensor], form: str, damage: str, seed: int, tmp_path: Path
) -> None:
    changed = dict(state)
    matrices = [key for key in sorted(state) if ".attn1.to_" in key or ".ff." in key]
    STATES[damage](changed, random.Random(f"{form} {damage} {seed}").choice(matrices))
    ends_in_one_sentence(FORMS[form](changed, tmp_path), load_transformer)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("damage", ["lost", "renamed", "strange"])
def test_wrong_tensors_of_sat_end_in_one_sentence(
    state: dict[str, Tensor], damage: str, seed: int, tmp_path: Path
) -> None:
    path = FORMS["sat"](dict(state), tmp_path)
    content = torch.load(one_file(path), weights_only=True)
    needed = [key for key in content["module"] if "pos_embed" not in key and "word_embeddings" not in key]
    STATES[damage](content["module"], random.Random(f"{damage} {seed}").choice(needed))
    if damage == "strange":
        content["module"]["model.diffusion_model.strange"] = torch.zeros(2)
    torch.save(content, one_file(path))
    ends_in_one_sentence(path, load_transformer)


# --- Folders of training programs -----------------------------------------------------------------------------------


def states_of(run: Path) -> Path:
    return run / "pytorch_model" / "mp_rank_00_model_states.pt"


RUNS: dict[str, Corruption] = {}


@corruption(RUNS)
def latest_names_nothing_here(run: Path, draw: random.Random) -> None:
    names = ["", "..", "../checkpoint-500/pytorch_model", "pytorch_model/", "gone", "a\0b", "/tmp", "C:\\x", "\n"]
    (run / "latest").write_text(draw.choice(names))


@corruption(RUNS)
def latest_is_no_text(run: Path, draw: random.Random) -> None:
    (run / "latest").write_bytes(b"\xff" + draw.randbytes(draw.randrange(99)))


@corruption(RUNS)
def states_are_gone(run: Path, draw: random.Random) -> None:
    states_of(run).unlink()
    if draw.random() < 0.5:
        shutil.rmtree(states_of(run).parent)


@corruption(RUNS)
def states_are_cut(run: Path, draw: random.Random) -> None:
    content = states_of(run).read_bytes()
    states_of(run).write_bytes(content[: draw.randrange(len(content) - 64)])


@corruption(RUNS)
def states_are_something_else(run: Path, draw: random.Random) -> None:
    other = [b"", b"<html></html>", b"version https://git-lfs.github.com/spec/v1", draw.randbytes(999), b"\x80\x02."]
    states_of(run).write_bytes(draw.choice(other))


@corruption(RUNS)
def states_are_a_folder(run: Path, draw: random.Random) -> None:
    states_of(run).unlink()
    states_of(run).mkdir()


@corruption(RUNS)
def states_are_divided(run: Path, draw: random.Random) -> None:
    name = draw.choice(["zero_pp_rank_0_mp_rank_00_model_states.pt", "z3_rank_03_model_states.pt"])
    torch.save({"module": {}}, states_of(run).with_name(name))
    if draw.random() < 0.5:
        states_of(run).unlink()


@corruption(RUNS)
def states_of_several_gpus(run: Path, draw: random.Random) -> None:
    shutil.copy(states_of(run), states_of(run).with_name(f"mp_rank_{draw.randrange(1, 99):02}_model_states.pt"))


@corruption(RUNS)
def the_optimizer_in_place_of_the_states(run: Path, draw: random.Random) -> None:
    shutil.copy(next(states_of(run).parent.glob("*optim_states.pt")), states_of(run))


@corruption(RUNS)
def a_trap_beside_the_weights(run: Path, draw: random.Random) -> None:
    trap = type("Trap", (), {"__reduce__": lambda self: (Path.touch, (run / "executed",))})
    content = torch.load(states_of(run)) | random_states()
    content[draw.choice([*content, "more"])] = draw.choice([trap(), [trap()], {"a": (1, trap())}])
    torch.save(content, states_of(run))


@corruption(RUNS)
def no_weights_beside_the_rest(run: Path, draw: random.Random) -> None:
    content = torch.load(states_of(run)) | random_states()
    content["module"] = draw.choice([None, {}, [1], {"a": 1}, {1: torch.ones(1)}, "x"])
    torch.save(
        {key: value for key, value in content.items() if "torch" not in key and "cuda" not in key}, states_of(run)
    )


@corruption(RUNS)
def weights_of_no_numbers(run: Path, draw: random.Random) -> None:
    """As ZeRO stage 3 leaves them, under a name that does not tell."""
    content = torch.load(states_of(run))
    content["module"] = {key: tensor[:0] for key, tensor in content["module"].items()}
    torch.save(content, states_of(run))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", RUNS)
def test_a_damaged_folder_of_a_training_run_ends_in_one_sentence(
    state: dict[str, Tensor], name: str, seed: int, tmp_path: Path
) -> None:
    run = deepspeed_folder(state, tmp_path)
    load_transformer(run)
    RUNS[name](run, random.Random(f"{name} {seed}"))
    ends_in_one_sentence(run, load_transformer)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("form", FORMS)
def test_a_file_of_any_form_cut_anywhere_ends_in_one_sentence(
    state: dict[str, Tensor], form: str, seed: int, tmp_path: Path
) -> None:
    path = FORMS[form](dict(state), tmp_path)
    load_transformer(path)
    file = one_file(path)
    content = file.read_bytes()
    file.write_bytes(content[: random.Random(f"{form} {seed}").randrange(len(content) - 64)])
    ends_in_one_sentence(path, load_transformer)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", ["a.safetensors", "a.gguf", "a.pt", "a.bin", "a.ckpt"])
def test_noise_of_any_name_ends_in_one_sentence(name: str, seed: int, tmp_path: Path) -> None:
    draw = random.Random(f"{name} {seed}")
    beginning = draw.choice([b"", b"GGUF\x03\0\0\0", b"PK\x03\x04", b"\x80\x02", b"\x80\x04"])
    (tmp_path / name).write_bytes(beginning + draw.randbytes(draw.randrange(40, 4000)))
    ends_in_one_sentence(tmp_path / name, load_transformer)


@pytest.mark.parametrize("count", [2**20, 2**40, 2**63])
def test_a_header_that_announces_more_than_there_is_takes_no_memory(count: int, tmp_path: Path) -> None:
    announced = count.to_bytes(8, "little")
    header = announced + b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'
    gguf = b"GGUF\x03\0\0\0" + announced + announced + bytes(64)
    before = resident_mib()
    for name, content in (("a.safetensors", header), ("a.gguf", gguf)):
        (tmp_path / name).write_bytes(content)
        ends_in_one_sentence(tmp_path / name, load_transformer)
    assert resident_mib() - before < 64


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("damage", ["cut", "code", "nothing", "not a number"])
def test_a_damaged_lora_ends_in_one_sentence_and_leaves_the_model_alone(
    checkpoint: Callable[..., Path], damage: str, seed: int, tmp_path: Path
) -> None:
    model = load_transformer(checkpoint("CogVideoX-5B"), dtype="float32")
    key = "transformer.transformer_blocks.0.attn1.to_q.lora_{}.weight"
    draw = random.Random(f"{damage} {seed}")
    tensors = {key.format("A"): torch.randn(4, 128), key.format("B"): torch.randn(128, 4)}
    path = tmp_path / f"lora{draw.choice(['.safetensors', '.pt'])}"
    if damage == "not a number":
        tensors[draw.choice(sorted(tensors))].view(-1)[draw.randrange(512)] = float("nan")
    if damage == "nothing":
        tensors = {"x.lora_A.weight": torch.ones(2, 2)}
    save_file(tensors, path) if path.suffix == ".safetensors" else torch.save(tensors, path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[: draw.randrange(path.stat().st_size - 300)])
    if damage == "code":
        trap = type("Trap", (), {"__reduce__": lambda self: (Path.touch, (tmp_path / "executed",))})
        path.write_bytes(pickle.dumps(trap()))
    ends_in_one_sentence(path, lambda file: load_lora(model, file))
    assert not any(module._forward_hooks or getattr(module, "additions", ()) for module in model.modules())
    assert not (tmp_path / "executed").exists()


@pytest.fixture(scope="module")
def wide() -> CogVideoXTransformer3D:
    return CogVideoXTransformer3D(TransformerConfig(num_layers=1, num_attention_heads=2, text_embed_dim=32))


# The parts of an adapter of each kind for a matrix of [128, 128], with one that it cannot do without.
ADAPTERS: dict[str, dict[str, tuple[int, ...]]] = {
    "LoKr": {"lokr_w1": (8, 8), "lokr_w2_a": (16, 4), "lokr_w2_b": (4, 16), "alpha": (1,)},
    "LoHa": {"hada_w1_a": (128, 4), "hada_w1_b": (4, 128), "hada_w2_a": (128, 4), "hada_w2_b": (4, 128)},
    "DoRA": {"lora_A.weight": (4, 128), "lora_B.weight": (128, 4), "lora_magnitude_vector": (128,)},
    "LoRA with a bias": {"lora_A.weight": (4, 128), "lora_B.weight": (128, 4), "lora_B.bias": (128,)},
    "OFT": {"oft_blocks": (16, 8, 8), "rescale": (128, 1)},
    "OFT of PEFT": {"oft_R.weight": (16, 28)},
    "GLoRA": {"a1.weight": (128, 4), "a2.weight": (4, 128), "b1.weight": (128, 4), "b2.weight": (4, 128)},
    "differences": {"diff": (128, 128), "diff_b": (128,)},
}
NEEDED = {"LoKr": "lokr_w1", "DoRA": "lora_A.weight", "LoRA with a bias": "lora_A.weight", "OFT": "oft_blocks"}
TENSORS: dict[str, Callable[[Tensor], Tensor]] = {
    "short": lambda tensor: tensor[:-1],
    "deep": lambda tensor: tensor[None].expand(2, *tensor.shape),
    "not a number": lambda tensor: torch.full_like(tensor, float("nan")),
    "infinite": lambda tensor: tensor / 0,
    "whole numbers": lambda tensor: tensor.to(torch.int16),
    "nothing": lambda tensor: tensor[:0],
}


DAMAGED_ADAPTERS = [
    (kind, damage)
    for kind in ADAPTERS
    for damage in ("cut", "noise", "lost", "strange", *TENSORS)
    if (kind, damage) not in {("differences", "lost"), ("OFT", "deep")}  # what is left is an adapter; it is BOFT's form
]


@pytest.mark.parametrize(
    "prefix", ["lycoris_transformer_blocks_0_attn1_to_q.", "base_model.model.transformer_blocks.0.attn1.to_q."]
)
@pytest.mark.parametrize(("kind", "damage"), DAMAGED_ADAPTERS)
def test_a_damaged_adapter_ends_in_one_sentence(
    kind: str, prefix: str, damage: str, wide: CogVideoXTransformer3D, tmp_path: Path
) -> None:
    draw, path = random.Random(f"{kind} {prefix} {damage}"), tmp_path / "adapter.safetensors"
    tensors = {prefix + part: torch.rand(shape) + 0.1 for part, shape in ADAPTERS[kind].items()}
    save_file(tensors, path)
    load_lora(wide, path).remove()
    key = prefix + NEEDED.get(kind, draw.choice(sorted(ADAPTERS[kind])))
    if damage == "lost":
        tensors = {other: tensor for other, tensor in tensors.items() if other != key} | {
            "x.lora_A.weight": torch.ones(1)
        }
    elif damage == "strange":
        tensors[f"{prefix}lora_E"] = torch.ones(4, 1)
    elif damage in TENSORS:
        tensors[key] = TENSORS[damage](tensors[key]).contiguous()
    save_file(tensors, path)
    content = path.read_bytes()
    if damage == "cut":
        path.write_bytes(content[: draw.randrange(len(content) - 64)])
    if damage == "noise":
        path.write_bytes(draw.randbytes(400))
    ends_in_one_sentence(path, lambda file: load_lora(wide, file))
    assert not any(getattr(module, "deltas", ()) for module in wide.modules())


def test_numbers_that_are_none_are_named_when_a_run_meets_them(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(checkpoint("CogVideoX-5B"), folder)
    path = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors["transformer_blocks.1.ff.net.2.weight"][3, 5] = float("inf")
    save_file(tensors, path)
    pipeline = load_pipeline(folder, device="cpu")
    with pytest.raises(FloatingPointError, match=r"transformer_blocks\.1\.ff\.net\.2\.weight .*download it again"):
        pipeline("a cat", height=32, width=32, num_frames=9, num_inference_steps=1)
