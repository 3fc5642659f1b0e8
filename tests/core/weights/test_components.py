"""Opening a component: the config.json that belongs to it, and weights from every form."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cogvideox_core.models.variants import VARIANTS
from cogvideox_core.weights.components import find_config, open_component
from cogvideox_core.weights.errors import CheckpointError
from cogvideox_core.weights.load import load_transformer
from cogvideox_core.weights.packed_weight import PackedWeight
from tests.support.weight_forms import QUANTIZED, comfyui

Checkpoint = Callable[..., Path]


WEIGHTS = "diffusion_pytorch_model.safetensors"


def test_the_declared_config_travels_in_the_header_of_a_single_file(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = checkpoint("CogVideoX-2B") / "transformer"
    tensors, declared = load_file(folder / WEIGHTS), (folder / "config.json").read_text()
    path = tmp_path / "model named by nobody.safetensors"
    save_file(tensors, path)
    assert load_transformer(path).variant is VARIANTS["CogVideoX-5B"]  # a toy's width is not 2B's
    save_file(tensors, path, metadata={"config": declared})
    assert load_transformer(path).variant is VARIANTS["CogVideoX-2B"]
    save_file(tensors, path, metadata={"config": "{"})
    with pytest.raises(CheckpointError, match="the config in the header of .*nobody.safetensors is no valid JSON"):
        load_transformer(path)


def test_the_config_of_the_folder_comes_before_that_of_the_header(checkpoint: Checkpoint, tmp_path: Path) -> None:
    weights = load_file(checkpoint("CogVideoX-5B") / "vae" / WEIGHTS)
    save_file(weights, tmp_path / WEIGHTS, metadata={"config": '{"from": "header"}'})
    opened = open_component(tmp_path, "vae")
    assert find_config(opened, tmp_path) == {"from": "header"}
    (tmp_path / "config.json").write_text('{"from": "folder"}')
    assert find_config(opened, tmp_path) == {"from": "folder"}
    (tmp_path / WEIGHTS).rename(tmp_path / "my own.safetensors")  # which the config.json may not be about
    assert find_config(open_component(tmp_path / "my own.safetensors", "vae"), tmp_path / "my own.safetensors") == {
        "from": "header"
    }


def test_a_component_has_diffusers_names_and_quantized_weights(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = checkpoint("CogVideoX1.5-5B-I2V", text_width=64) / "transformer"
    state = load_file(folder / WEIGHTS)
    named = open_component(comfyui(state | {"v_pred": torch.zeros(0)}, tmp_path), "transformer")
    assert set(named) == set(state), "ComfyUI's names and its marker are gone"
    quantized = open_component(QUANTIZED["Q4_0.gguf"][0](state, tmp_path), "transformer")
    key = "transformer_blocks.0.attn1.to_q.weight"
    assert isinstance(quantized[key], PackedWeight) and quantized.entries[key].codec == "Q4_0"
    assert find_config(quantized, tmp_path / "Q4_0.gguf") is None
