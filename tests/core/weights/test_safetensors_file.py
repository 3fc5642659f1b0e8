""".safetensors files: mapped where their tensors are stored, and one sentence for everything that is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cogvideox_core.weights.errors import CheckpointError
from cogvideox_core.weights.files import open_weights
from tests.support.weight_files import LINUX, assert_refused, raw_safetensors, refuse_mapping, resident_mib

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


# --- Where the system maps nothing ----------------------------------------------------------------------------------


def test_a_file_that_cannot_be_mapped_is_read_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    content = {"a": A, "b": B, "none": torch.zeros(0, 2), "one": torch.tensor(7, dtype=torch.int8)}
    save_file(content, tmp_path / "a.safetensors", metadata={"by": "me"})
    refuse_mapping(monkeypatch)
    weights = open_weights(tmp_path / "a.safetensors")
    assert weights.metadata == {"by": "me"} and set(weights) == set(content)
    for key, tensor in content.items():
        assert weights[key].dtype == tensor.dtype and torch.equal(weights[key], tensor)
    assert "a.safetensors is read in parts" in caplog.text and "1455" in caplog.text
    weights["a"].fill_(7)
    assert torch.equal(weights["a"], A), "what was read is the reader's own"


def test_large_tensors_are_read_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cogvideox_core.weights.file_bytes._PART", 7)
    save_file({"a": A, "c": torch.arange(99)}, tmp_path / "a.safetensors")
    refuse_mapping(monkeypatch)
    assert torch.equal(open_weights(tmp_path)["c"], torch.arange(99)) and torch.equal(open_weights(tmp_path)["a"], A)


BROKEN_WHERE_NOTHING_IS_MAPPED: list[tuple[object, bytes, str]] = [
    ({"a": GOOD}, bytes(7), "cut short"),
    ({"a": GOOD}, bytes(9), "1 bytes more"),
    ({"a": {**GOOD, "shape": [3]}}, bytes(8), "damaged header"),
    ({"a": {**GOOD, "shape": [-1, -2]}}, bytes(8), "damaged header"),
    ({"a": {**GOOD, "shape": [2.0]}}, bytes(8), "damaged header"),
    ({"a": {**GOOD, "data_offsets": [0.0, 8.0]}}, bytes(8), "damaged header"),
    ({"a": {**GOOD, "data_offsets": [4, 12]}}, bytes(12), "damaged header"),
    ({"a": {**GOOD, "data_offsets": [8, 0]}}, bytes(8), "damaged header"),
    ({"a": {**GOOD, "dtype": "Q9"}}, bytes(8), "number types that are not read"),
    ({"a": GOOD, "b": GOOD}, bytes(8), "damaged header"),
    ({"a": {}}, bytes(8), "damaged header"),
    ({"a": ["F32", [2], [0, 8]]}, bytes(8), "damaged header"),
    ({"a": 1}, bytes(8), "damaged header"),
    (b"[]", bytes(8), "no safetensors file"),
    (b"{" * 40, bytes(8), "damaged header"),
    (b"", b"", "no weights"),
]


@pytest.mark.parametrize(("header", "data", "told"), BROKEN_WHERE_NOTHING_IS_MAPPED)
def test_what_safetensors_would_refuse_is_refused_where_it_cannot_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, header: object, data: bytes, told: str
) -> None:
    path = raw_safetensors(tmp_path / "x.safetensors", header, data)
    assert_refused(path, told)
    refuse_mapping(monkeypatch)
    assert_refused(path, told)


@pytest.mark.parametrize("length", [2**40, 2**62, 10**8 - 1])
def test_a_header_that_is_longer_than_its_file_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b"{" + bytes(99))
    refuse_mapping(monkeypatch)
    assert_refused(path, "cut short" if length < 10**8 else "damaged header")


def test_a_file_that_is_not_there_to_read_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.safetensors").mkdir()
    refuse_mapping(monkeypatch)
    assert_refused(tmp_path, "cannot be read")
