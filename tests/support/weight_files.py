"""What tests of weight files share: raw .safetensors files, a pickle that runs code, and refusals in one sentence."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from cogvideox_core.weights.errors import CheckpointError
from cogvideox_core.weights.files import open_weights

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def resident_mib() -> float:
    """Memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def raw_safetensors(path: Path, header: object, data: bytes = b"") -> Path:
    """A file with a header of any content, valid or not."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


class Bomb:
    """Unpickling this leaves a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.trace,)


def assert_refused(path: Path, *parts: str) -> None:
    """Opening ends in one sentence that names the file and holds these parts."""
    with pytest.raises(CheckpointError) as caught:
        open_weights(path)
    message = str(caught.value)
    assert all(part in message for part in (*parts, path.name)), message
    assert message.isprintable() and "; " in message and ". " not in message, message


def refuse_mapping(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every mapping of a file refused, as Windows does when its page file is too small."""

    def refuse(path: str, *_: object) -> None:
        raise RuntimeError(f"Couldn't map view of shared file <{path}>, error code: <1455>")

    def refuse_to_open(path: str, *_: object, **options: object) -> None:
        raise OSError(f"The paging file is too small for this operation to complete: {path} (os error 1455)")

    monkeypatch.setattr(torch.UntypedStorage, "from_file", refuse)
    monkeypatch.setattr("cogvideox_core.weights.safetensors_file.safe_open", refuse_to_open)
