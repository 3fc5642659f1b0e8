"""Opening weight files: mapped, whole, and with one sentence for everything that cannot be opened."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cogvideox_core.weights.errors import CheckpointError
from cogvideox_core.weights.files import open_weights

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
A, B = torch.arange(6.0).reshape(2, 3), torch.ones(4, dtype=torch.bfloat16)


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def write_index(folder: Path, placed: object, stem: str = "diffusion_pytorch_model") -> Path:
    index = folder / f"{stem}.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    return index


def write_shards(folder: Path, stem: str = "diffusion_pytorch_model") -> Path:
    names = [f"{stem}-0000{part}-of-00002.safetensors" for part in (1, 2)]
    save_file({"a": A}, folder / names[0])
    save_file({"b": B}, folder / names[1])
    return write_index(folder, {"a": names[0], "b": names[1]}, stem)


def raw(path: Path, header: object, data: bytes = b"") -> Path:
    text = json.dumps(header).encode() if not isinstance(header, bytes) else header
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def test_one_file_is_opened(tmp_path: Path) -> None:
    save_file({"a": A, "b": B}, tmp_path / "any name.safetensors", metadata={"by": "me"})
    weights = open_weights(tmp_path / "any name.safetensors")
    assert weights.shapes == {"a": (2, 3), "b": (4,)}
    assert weights.dtypes == {"a": torch.float32, "b": torch.bfloat16}
    assert weights.metadata == {"by": "me"}
    assert len(weights) == 2 and set(weights) == {"a", "b"}
    assert torch.equal(weights["a"], A) and torch.equal(weights["b"], B)


@pytest.mark.parametrize("name", ["diffusion_pytorch_model", "model", "diffusion_pytorch_model.fp16", "my own"])
def test_a_folder_with_one_file_is_opened(tmp_path: Path, name: str) -> None:
    save_file({"a": A}, tmp_path / f"{name}.safetensors")
    assert torch.equal(open_weights(tmp_path)["a"], A)
    assert torch.equal(open_weights(str(tmp_path))["a"], A)


@pytest.mark.parametrize("stem", ["diffusion_pytorch_model", "model"])
def test_shards_are_opened_by_folder_by_index_and_by_any_one_of_them(tmp_path: Path, stem: str) -> None:
    index = write_shards(tmp_path, stem)
    for path in (tmp_path, index, tmp_path / f"{stem}-00002-of-00002.safetensors"):
        weights = open_weights(path)
        assert torch.equal(weights["a"], A) and torch.equal(weights["b"], B)


@LINUX
def test_six_gigabytes_are_opened_without_memory(tmp_path: Path) -> None:
    offsets = [part * 2 * 2**30 for part in range(3)]
    header = {
        f"k{i}": {"dtype": "BF16", "shape": [2**30], "data_offsets": [o, o + 2**31]} for i, o in enumerate(offsets)
    }
    path = raw(tmp_path / "big.safetensors", header)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + 3 * 2**31)
    before = resident_mib()
    weights = open_weights(path)
    assert weights.shapes["k2"] == (2**30,) and weights.dtypes["k2"] == torch.bfloat16
    assert weights["k2"].shape == (2**30,)
    assert resident_mib() - before < 32


@LINUX
def test_tensors_lie_in_the_file_mapping(tmp_path: Path) -> None:
    path = tmp_path / "mapped.safetensors"
    save_file({"a": A}, path)
    tensor = open_weights(path)["a"]
    rows = [line.split()[0] for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(path))]
    spans = [[int(end, 16) for end in row.split("-")] for row in rows]
    assert any(start <= tensor.data_ptr() < end for start, end in spans)


def test_tensors_are_found_where_they_lie(tmp_path: Path) -> None:
    """Another writer's order: 'z' first, 'a' at an odd place, and one without numbers."""
    placed = {"z": ("U8", [3], [0, 3]), "none": ("F32", [0, 2], [3, 3]), "a": ("F32", [2, 3], [3, 27])}
    header = {key: {"dtype": d, "shape": shape, "data_offsets": at} for key, (d, shape, at) in placed.items()}
    file = raw(tmp_path / "odd.safetensors", header, bytes([7, 8, 9]) + A.numpy().tobytes())
    weights = open_weights(file)
    assert weights["z"].tolist() == [7, 8, 9]
    assert weights["none"].shape == (0, 2)
    assert torch.equal(weights["a"], A)


def test_writing_to_a_mapped_tensor_leaves_the_file_alone(tmp_path: Path) -> None:
    save_file({"a": A}, tmp_path / "a.safetensors")
    open_weights(tmp_path)["a"].fill_(7)
    assert torch.equal(open_weights(tmp_path)["a"], A)


def refused(path: Path, *told: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        open_weights(path)
    message = str(caught.value)
    assert all(part in message for part in (*told, path.name)), message
    assert message.isprintable() and "; " in message and ". " not in message, message


def test_paths_without_weights_are_refused(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere.safetensors", "does not exist")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "looked for diffusion_pytorch_model.safetensors", "model.safetensors")
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "model_index.json").write_text("{}")
    refused(tmp_path / "whole", "whole diffusers folder", "transformer")
    (tmp_path / "several").mkdir()
    for name in "xy":
        save_file({"a": A}, tmp_path / "several" / f"{name}.safetensors")
    refused(tmp_path / "several", "2 sets of weights", "x.safetensors")
    (tmp_path / "notes.txt").write_text("a")
    refused(tmp_path / "notes.txt", "(.txt)", "a .safetensors, .gguf or .pt file")
    (tmp_path / "noending").write_text("a")
    refused(tmp_path / "noending", "no ending")


class Bomb:
    """Unpickling this leaves a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.trace,)


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
    refused(path, "is a pickle that ", "give the weights as .safetensors")
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
    refused(tmp_path / "list.pt", "no tensors by name")


@LINUX
def test_a_zipped_pickle_is_mapped(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2**24)}, tmp_path / "a.pt")  # 64 MiB
    before = resident_mib()
    assert open_weights(tmp_path / "a.pt")["a"][5] == 1
    assert resident_mib() - before < 32


def test_sat_names_the_folder_of_its_newest_state(tmp_path: Path) -> None:
    (tmp_path / "1000").mkdir()
    torch.save({"module": {"a": A}}, tmp_path / "1000" / "mp_rank_00_model_states.pt")
    (tmp_path / "latest").write_text("1000\n")
    assert torch.equal(open_weights(tmp_path)["a"], A)
    (tmp_path / "latest").write_text("2000")
    refused(tmp_path, "mp_rank_00_model_states.pt is missing, though latest names its folder")
    for name in ("../1000", "", "a/b"):
        (tmp_path / "latest").write_text(name)
        refused(tmp_path, "names no folder next to it")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "holds 0 bytes"),
        (b"1234", "holds 4 bytes"),
        (b"GGUF\x03\0\0\0" + bytes(99), "GGUF"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n", "git lfs pull"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b"\xff" * 64, "no safetensors file"),
        ((2**40).to_bytes(8, "little") + b"{" + bytes(99), "damaged header"),
        (b"\x02\0\0\0\0\0\0\0[]", "no safetensors file"),
    ],
)
def test_files_that_are_no_safetensors_are_explained(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    refused(path, told)


@pytest.mark.parametrize("keep", [12, 60, -1])
def test_a_cut_file_says_how_much_is_missing(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": A}, path)
    content = path.read_bytes()
    path.write_bytes(content[:keep])
    refused(path, "cut short", f"{len(content[:keep])} bytes are there")


def test_a_file_with_bytes_behind_its_tensors_says_how_many(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": A}, path)
    path.write_bytes(path.read_bytes() + b"123")
    refused(path, "holds 3 bytes more")


GOOD = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "header",
    [
        b"{" * 400,
        b'{"a":' * 9999,
        b'{"\xff": 1}',
        {"a": 1},
        {"a": {}},
        {"a": {**GOOD, "shape": [3]}},
        {"a": {**GOOD, "shape": [-2]}},
        {"a": {**GOOD, "shape": [2**63, 2**63]}},
        {"a": ["F32", [2], [0, 8]]},
        {"a": {**GOOD, "data_offsets": [8, 0]}},
        {"a": {**GOOD, "data_offsets": [0]}},
        {"a": GOOD, "b": GOOD},
    ],
)
def test_damaged_headers_are_refused(tmp_path: Path, header: object) -> None:
    refused(raw(tmp_path / "x.safetensors", header, bytes(8)), "damaged header")


@pytest.mark.parametrize("name", ["F8_E8M0", "Q9"])  # one that new releases of safetensors know, and one that none does
def test_number_types_nothing_computes_with_are_refused(tmp_path: Path, name: str) -> None:
    header = {"a": {"dtype": name, "shape": [8], "data_offsets": [0, 8]}}
    refused(raw(tmp_path / "x.safetensors", header, bytes(8)), "holds number types that are not read", f"a ({name})")


def test_a_directory_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").mkdir()
    refused(tmp_path, "cannot be read")


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    write_shards(tmp_path)
    (tmp_path / "diffusion_pytorch_model-00002-of-00002.safetensors").unlink()
    refused(tmp_path, "diffusion_pytorch_model-00002-of-00002.safetensors is missing")


def test_a_shard_without_its_index_is_no_model(tmp_path: Path) -> None:
    write_shards(tmp_path).unlink()
    refused(tmp_path / "diffusion_pytorch_model-00001-of-00002.safetensors", "one of 2 parts")


@pytest.mark.parametrize(
    "name", ["../out.safetensors", "sub/x.safetensors", "/x.safetensors", "..\\x.safetensors", "C:x.safetensors",
             "..", ".", "", "a\0.safetensors", 3, None, ["x"], {"x": 1}],
)  # fmt: skip
def test_an_index_does_not_lead_out_of_its_folder(tmp_path: Path, name: object) -> None:
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    for place in (tmp_path / "out.safetensors", folder / "sub" / "x.safetensors"):
        save_file({"a": A}, place)
    write_index(folder, {"a": name})
    refused(folder, "no plain file name")


def test_an_index_may_not_bring_in_code(tmp_path: Path) -> None:
    (tmp_path / "shard.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "executed")))
    write_index(tmp_path, {"a": "shard.bin"})
    with pytest.raises(CheckpointError, match="shard.bin is a pickle that .*; give the weights as .safetensors"):
        open_weights(tmp_path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [("{", "no valid JSON"), ("[]", "JSON list"), ("{}", "weight_map"), ('{"weight_map": 3}', "weight_map"),
     ('{"weight_map": {}}', "weight_map"), ("[" * 100_000, "no valid JSON"), ("", "no valid JSON")],
)  # fmt: skip
def test_a_broken_index_is_refused(tmp_path: Path, text: str, told: str) -> None:
    write_shards(tmp_path).write_text(text)
    refused(tmp_path, told, "diffusion_pytorch_model.safetensors.index.json")


def test_an_index_that_is_no_text_is_refused(tmp_path: Path) -> None:
    write_shards(tmp_path).write_bytes(b"\xff\xfe{}")
    refused(tmp_path, "cannot be read")


def test_index_and_shards_must_be_of_one_model(tmp_path: Path) -> None:
    index = write_shards(tmp_path)
    placed = json.loads(index.read_text())["weight_map"]
    write_index(tmp_path, placed | {"c": placed["a"]})
    refused(tmp_path, "shards that lack them: c (")
    write_index(tmp_path, placed)
    save_file({"a": A, "b": B}, tmp_path / placed["b"])
    refused(tmp_path, "holds a twice", placed["a"], placed["b"])


def test_keys_from_a_file_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    path = raw(
        tmp_path / "x.safetensors", {"\x1b[31m\n" + "k" * 999: {**GOOD, "shape": [8], "dtype": "F8_E8M0"}}, bytes(8)
    )
    with pytest.raises(CheckpointError) as caught:
        open_weights(path)
    assert "(F8_E8M0)" not in str(caught.value) and "kkk..." in str(caught.value)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500 + len(str(path))
