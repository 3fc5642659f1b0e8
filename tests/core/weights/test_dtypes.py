"""The dtype that weights are loaded in, and the names of dtypes."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cogvideox_core.weights.errors import CheckpointError
from cogvideox_core.weights.load import load_transformer, load_vae

Checkpoint = Callable[..., Path]


TOY = "CogVideoX1.5-5B-I2V"


WEIGHTS = "diffusion_pytorch_model.safetensors"


def assert_same_weights(model: nn.Module, tensors: dict[str, Tensor], dtype: torch.dtype) -> None:
    state = model.state_dict()
    assert set(state) == set(tensors)
    for key, tensor in tensors.items():
        assert state[key].dtype == dtype and state[key].device.type == "cpu"
        assert torch.equal(state[key], tensor.to(dtype)), key


def changed(folder: Path, target: Path, change: Callable[[dict[str, Tensor]], Any]) -> Path:
    """A copy of a component's folder with other tensors."""
    shutil.copytree(folder, target)
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, target / WEIGHTS)
    return target


@pytest.mark.parametrize("dtype", ["int8", "", "q4", torch.int32, torch.float8_e4m3fn])
def test_a_dtype_nothing_computes_in_is_refused(checkpoint: Checkpoint, dtype: Any) -> None:
    for load in (load_transformer, load_vae):
        with pytest.raises(ValueError, match="dtype=.*bf16, bfloat16"):
            load(checkpoint(TOY), dtype=dtype)


def test_mixed_dtypes_are_noticed(checkpoint: Checkpoint, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = checkpoint(TOY, dtype=torch.bfloat16) / "transformer"
    mixed = changed(folder, tmp_path / "mixed", lambda t: t.update({"norm_final.bias": t["norm_final.bias"].float()}))
    with caplog.at_level(logging.WARNING, "cogvideox"):
        model = load_transformer(mixed)
    assert "mixes number types" in caplog.text and "float32" in caplog.text
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    caplog.clear()
    load_transformer(folder)
    assert not caplog.text


def test_whole_numbers_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    def quantize(tensors: dict[str, Tensor]) -> None:
        tensors["norm_final.bias"] = tensors["norm_final.bias"].to(torch.int8)

    path = changed(checkpoint(TOY) / "transformer", tmp_path / "int8", quantize)
    for dtype in (None, "float32"):
        with pytest.raises(
            CheckpointError, match=r"int8 holds whole numbers without a scale: norm_final.bias \(torch.int8\)"
        ):
            load_transformer(path, dtype=dtype)


def test_8_bit_floats_compute_in_the_dtype_of_the_others(checkpoint: Checkpoint, tmp_path: Path) -> None:
    def shrink(tensors: dict[str, Tensor]) -> None:
        for key, tensor in tensors.items():
            tensors[key] = tensor.to(torch.float8_e4m3fn if key.endswith("to_q.weight") else torch.float16)

    path = changed(checkpoint(TOY) / "transformer", tmp_path / "fp8", shrink)
    tensors = load_file(path / WEIGHTS)
    assert_same_weights(load_transformer(path), tensors, torch.float16)
    assert_same_weights(load_transformer(path, dtype="bf16"), tensors, torch.bfloat16)
