"""What tests of weight files share: raw .safetensors files, a pickle that runs code, and refusals in one sentence."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

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
