""".safetensors files: mapped where their tensors are stored, and one sentence for everything that is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cogvideox_core.weights.errors import CheckpointError
from cogvideox_core.weights.files import open_weights
from tests.support.weight_files import LINUX, assert_refused, raw_safetensors, resident_mib

A, B = torch.arange(6.0).reshape(2, 3), torch.ones(4, dtype=torch.bfloat16)


@LINUX
def test_six_gigabytes_are_opened_without_memory(tmp_path: Path) -> None:
    offsets = [part * 2 * 2**30 for part in range(3)]
    header = {
        f"k{i}": {"dtype": "BF16", "shape": [2**30], "data_offsets": [o, o + 2**31]} for i, o in enumerate(offsets)
    }
    path = raw_safetensors(tmp_path / "big.safetensors", header)
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
    file = raw_safetensors(tmp_path / "odd.safetensors", header, bytes([7, 8, 9]) + A.numpy().tobytes())
    weights = open_weights(file)
    assert weights["z"].tolist() == [7, 8, 9]
    assert weights["none"].shape == (0, 2)
    assert torch.equal(weights["a"], A)


def test_writing_to_a_mapped_tensor_leaves_the_file_alone(tmp_path: Path) -> None:
    save_file({"a": A}, tmp_path / "a.safetensors")
    open_weights(tmp_path)["a"].fill_(7)
    assert torch.equal(open_weights(tmp_path)["a"], A)


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
    assert_refused(path, told)


@pytest.mark.parametrize("keep", [12, 60, -1])
def test_a_cut_file_says_how_much_is_missing(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": A}, path)
    content = path.read_bytes()
    path.write_bytes(content[:keep])
    assert_refused(path, "cut short", f"{len(content[:keep])} bytes are there")


def test_a_file_with_bytes_behind_its_tensors_says_how_many(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": A}, path)
    path.write_bytes(path.read_bytes() + b"123")
    assert_refused(path, "holds 3 bytes more")


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
    assert_refused(raw_safetensors(tmp_path / "x.safetensors", header, bytes(8)), "damaged header")


@pytest.mark.parametrize("name", ["F8_E8M0", "Q9"])  # one that new releases of safetensors know, and one that none does
def test_number_types_nothing_computes_with_are_refused(tmp_path: Path, name: str) -> None:
    header = {"a": {"dtype": name, "shape": [8], "data_offsets": [0, 8]}}
    assert_refused(
        raw_safetensors(tmp_path / "x.safetensors", header, bytes(8)),
        "holds number types that are not read",
        f"a ({name})",
    )


def test_keys_from_a_file_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    path = raw_safetensors(
        tmp_path / "x.safetensors", {"\x1b[31m\n" + "k" * 999: {**GOOD, "shape": [8], "dtype": "F8_E8M0"}}, bytes(8)
    )
    with pytest.raises(CheckpointError) as caught:
        open_weights(path)
    assert "(F8_E8M0)" not in str(caught.value) and "kkk..." in str(caught.value)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500 + len(str(path))
