"""The bytes of a file where the system has no room to map it: read in parts, or one sentence about memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cogvideox_core.cli.main import main
from cogvideox_core.weights.errors import CheckpointError
from cogvideox_core.weights.file_bytes import FileBytes, is_full_memory
from cogvideox_core.weights.load import load_transformer
from tests.support.checkpoints import random_transformer, toy_transformer_config
from tests.support.weight_files import LINUX, raw_safetensors, refuse_mapping


def test_parts_are_the_same_mapped_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytes(range(256)) * 3
    (tmp_path / "a").write_bytes(content)
    mapped = FileBytes(tmp_path / "a")
    refuse_mapping(monkeypatch)
    read = FileBytes(tmp_path / "a")
    assert mapped.mapped is not None and read.mapped is None
    for start, stop in ((0, 768), (5, 6), (300, 300), (511, 768)):
        for source in (mapped, read):
            storage = source.storage(start, stop)
            assert bytes(storage.tolist()) == content[start:stop] and storage.nbytes() == stop - start


def test_a_file_that_went_away_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"12345678")
    refuse_mapping(monkeypatch)
    source = FileBytes(tmp_path / "a")
    (tmp_path / "a").unlink()
    with pytest.raises(CheckpointError, match="a cannot be read .*; copy it to another disk"):
        source.storage(0, 8)


@pytest.mark.parametrize(
    ("error", "is_full"),
    [
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 7 bytes."), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), True),
        (RuntimeError("shapes cannot be multiplied"), False),
        (OSError("out of memory"), False),
    ],
)
def test_full_memory_is_known_by_its_words(error: Exception, is_full: bool) -> None:
    assert is_full_memory(error) == is_full


@pytest.mark.parametrize("form", ["single", ".pt"])
def test_a_model_that_cannot_be_mapped_loads_and_is_told_by_the_command(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = random_transformer(toy_transformer_config("CogVideoX-5B"))
    model.save_pretrained(tmp_path, safe_serialization=form == "single")
    refuse_mapping(monkeypatch)
    loaded = load_transformer(tmp_path).state_dict()
    assert all(torch.equal(loaded[key], tensor) for key, tensor in model.state_dict().items())
    assert main(["inspect", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert "complete: no key is missing" in printed.out and "is read in parts" in printed.err
    assert main(["convert", str(tmp_path), str(tmp_path / "out.safetensors"), "--to", "int8"]) == 0


# Under a limit of address space that has room for the program and no more than a gigabyte of files.
LIMITED = """
import resource, sys
from pathlib import Path
from cogvideox_core.cli.main import main
from cogvideox_core.weights.files import open_weights

used = int(Path("/proc/self/statm").read_text().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, used + 2**30))
weights = open_weights(sys.argv[1])
print(weights["small"].sum().item())
try:
    weights["large"]
except ValueError as error:
    print(error)
print(main(["inspect", sys.argv[1]]))
"""


@LINUX
def test_a_real_refusal_is_survived(tmp_path: Path) -> None:
    """A sparse file of 6 GB, where a process may have 1 GB more than it has."""
    small, large = {"dtype": "F32", "shape": [4]}, {"dtype": "U8", "shape": [6 * 10**9]}
    header = {"small": {**small, "data_offsets": [0, 16]}, "large": {**large, "data_offsets": [16, 16 + 6 * 10**9]}}
    path = raw_safetensors(tmp_path / "a.safetensors", header, torch.ones(4).numpy().tobytes())
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + 6 * 10**9)
    run = subprocess.run([sys.executable, "-c", LIMITED, str(path)], capture_output=True, text=True, check=True)
    total, sentence, *report, code = run.stdout.splitlines()
    assert float(total) == 4.0 and int(code) == 0
    assert sentence.startswith(f"{path} is not mapped but read, and memory has no 6.0 GB left for it; ")
    assert "enlarge the page file" in sentence and "fp8 or int8" in sentence
    assert "nothing that is known" in report[1]
    assert "a.safetensors is read in parts" in run.stderr and "Cannot allocate memory" in run.stderr
