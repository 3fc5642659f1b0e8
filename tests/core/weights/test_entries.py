"""Open weights: a mapping of tensors that are read when they are asked for."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from cogvideox_core.weights.entries import OpenWeights, TensorEntry


def test_tensors_are_read_when_they_are_asked_for() -> None:
    read = []

    def reading() -> Tensor:
        read.append(1)
        return torch.arange(6.0).view(2, 3)

    entry = TensorEntry((2, 3), torch.float32, reading)
    weights = OpenWeights(Path("x.safetensors"), {"a": entry}, {"by": "me"}, (".safetensors",))
    assert list(weights) == ["a"] and len(weights) == 1 and "a" in weights and "b" not in weights
    assert weights.shapes == {"a": (2, 3)} and weights.dtypes == {"a": torch.float32}
    assert read == [], "shape and dtype need no numbers"
    assert torch.equal(weights["a"], torch.arange(6.0).view(2, 3)) and read == [1]


def test_other_entries_keep_the_path_the_metadata_and_the_form() -> None:
    entry = TensorEntry((1,), torch.float32, lambda: torch.ones(1))
    weights = OpenWeights(Path("x"), {"a": entry}, {"by": "me"}, (".gguf",))
    renamed = weights.with_entries({"b": entry}, "ComfyUI")
    assert list(renamed) == ["b"] and list(weights) == ["a"]
    assert (renamed.path, renamed.metadata, renamed.form) == (Path("x"), {"by": "me"}, (".gguf", "ComfyUI"))
    assert weights.with_entries({"b": entry}).form == (".gguf",)
