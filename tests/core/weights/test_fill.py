"""Giving models their weights: what does not fit is counted and named."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import BatchNorm1d, Linear

from cogvideox_core.weights.errors import CheckpointError
from cogvideox_core.weights.fill import check_fit, fill, fill_host_module
from cogvideox_core.weights.load import load_transformer

Checkpoint = Callable[..., Path]


WEIGHTS = "diffusion_pytorch_model.safetensors"


def changed(folder: Path, target: Path, change: Callable[[dict[str, Tensor]], Any]) -> Path:
    """A copy of a component's folder with other tensors."""
    shutil.copytree(folder, target)
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, target / WEIGHTS)
    return target


def test_keys_and_shapes_that_do_not_fit_are_counted_and_named(checkpoint: Checkpoint, tmp_path: Path) -> None:
    def spoil(tensors: dict[str, Tensor]) -> None:
        for key in [key for key in tensors if ".norm2." in key]:
            del tensors[key]
        tensors["a.stranger"] = torch.zeros(1)
        tensors["proj_out.bias"] = torch.zeros(3)

    path = changed(checkpoint("CogVideoX-5B") / "transformer", tmp_path / "spoilt", spoil)
    with pytest.raises(CheckpointError) as caught:
        load_transformer(path)
    message = str(caught.value)
    assert "8 keys missing (transformer_blocks.0.norm2." in message and " and 3 more)" in message
    assert "1 key unexpected (a.stranger)" in message
    assert "1 key of another shape (proj_out.bias [3] instead of [64])" in message
    assert str(path) in message and message.count(".norm2.") == 5


# --- Filling ----------------------------------------------------------------------------------------------------------


def toy() -> nn.Sequential:
    return nn.Sequential(Linear(3, 4), BatchNorm1d(4))


def test_a_model_takes_the_tensors_themselves() -> None:
    tensors = {key: tensor.clone() for key, tensor in toy().state_dict().items() if tensor.is_floating_point()}
    empty = nn.Sequential(Linear(3, 4, device="meta"), BatchNorm1d(4, device="meta"))
    del empty[1].num_batches_tracked  # a whole number, which is no weight
    filled = fill(empty, tensors)
    assert filled is empty and not filled.training
    for key, tensor in filled.state_dict().items():
        assert tensor.data_ptr() == tensors[key].data_ptr(), key
    assert {name for name, _ in filled.named_buffers()} == {"1.running_mean", "1.running_var"}
    assert not any(weight.requires_grad for weight in filled.parameters())


def test_another_dtype_is_cast_to() -> None:
    source = Linear(3, 4)
    filled = fill(Linear(3, 4, device="meta"), source.state_dict(), dtype=torch.bfloat16)
    assert torch.equal(filled.weight, source.weight.bfloat16()) and filled.bias.dtype == torch.bfloat16


def test_a_host_module_is_filled_by_its_own_way_to_load() -> None:
    class HostLayer(nn.Module):  # without weights before it is loaded, as some of ComfyUI's layers
        def _load_from_state_dict(self, state_dict: Any, prefix: str, *_: Any) -> None:
            self.taken = dict(state_dict)

    source = Linear(3, 4)
    module = fill_host_module(HostLayer(), source.state_dict(), like=source, dtype=torch.float16)
    assert {key: tensor.dtype for key, tensor in module.taken.items()} == dict.fromkeys(
        ["weight", "bias"], torch.float16
    )
    with pytest.raises(CheckpointError, match=r"^mine does not fit .*1 key missing \(bias\)"):
        fill_host_module(HostLayer(), {"weight": source.weight}, like=source, source="mine")


def test_what_fits_is_not_refused() -> None:
    check_fit(toy(), toy().state_dict(), "x")
    with pytest.raises(CheckpointError, match=r"1 key of another shape \(weight \[4, 3\] instead of \[3, 4\]\)"):
        check_fit(Linear(4, 3, bias=False), {"weight": torch.zeros(4, 3)}, "x")
