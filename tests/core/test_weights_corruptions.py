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

from cogvideox_core.weights import CheckpointError, load_transformer, load_vae

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


def weight_file(folder: Path, draw: random.Random) -> Path:
    return draw.choice(sorted(folder.glob("*.safetensors")))


def edit(folder: Path, draw: random.Random, change: Callable[[dict[str, Tensor], str], object]) -> None:
    path = weight_file(folder, draw)
    tensors = load_file(path)
    change(tensors, draw.choice(sorted(tensors)))
    save_file(tensors, path)


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
    first, second = draw.sample(sorted(folder.glob("*.safetensors")), 2)
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


@corruption(SHARDS)
def tensor_in_two_shards(folder: Path, draw: random.Random) -> None:
    first, second = draw.sample(sorted(folder.glob("*.safetensors")), 2)
    save_file(load_file(first) | load_file(second), second)


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


@pytest.mark.parametrize("name", ["cut", "lost_tensor", "renamed_tensor", "stranger", "another_shape", "whole_numbers"])
def test_a_damaged_vae_ends_in_one_sentence(copied: Callable[..., Path], name: str) -> None:
    folder = copied("CogVideoX-5B", "vae")
    load_vae(folder)
    ONE[name](folder, random.Random(name))
    ends_in_one_sentence(folder, load_vae)
