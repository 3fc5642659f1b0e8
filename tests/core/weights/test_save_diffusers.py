"""Folders that are written open in diffusers and transformers, and here, as what they were."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXTransformer3DModel
from safetensors.torch import load_file
from transformers import T5EncoderModel

from cogvideox_core import load_lora, load_text_encoder, load_transformer, load_vae
from cogvideox_core.models.config import ScheduleConfig
from cogvideox_core.weights.save_diffusers import (
    describe,
    write_index,
    write_lora,
    write_scheduler,
    write_text_encoder,
    write_transformer,
    write_vae,
)
from tests.support.lora_forms import pairs_of

Checkpoint = Callable[..., Path]


@pytest.mark.parametrize("kind", ["CogVideoX-2B", "CogVideoX1.5-5B-I2V"])
def test_a_transformer_opens_in_diffusers(kind: str, checkpoint: Checkpoint, tmp_path: Path) -> None:
    model = load_transformer(checkpoint(kind))
    write_transformer(model, model.config, tmp_path / "transformer", torch.bfloat16)
    peer = CogVideoXTransformer3DModel.from_pretrained(tmp_path / "transformer")
    state = model.state_dict()
    assert {key: tensor.shape for key, tensor in peer.state_dict().items()} == {
        key: tensor.shape for key, tensor in state.items()
    }
    assert all(torch.equal(tensor, state[key].bfloat16()) for key, tensor in peer.state_dict().items())
    assert load_transformer(tmp_path / "transformer").config == model.config


def test_a_table_that_the_model_lacks_is_zeros(checkpoint: Checkpoint, tmp_path: Path) -> None:
    model = load_transformer(checkpoint("CogVideoX-5B-I2V"))
    del model.patch_embed.pos_embedding
    write_transformer(model, model.config, tmp_path, torch.float32)
    table = load_file(tmp_path / "diffusion_pytorch_model.safetensors")["patch_embed.pos_embedding"]
    assert table.shape == (1, model.config.position_rows, model.config.width) and not table.any()
    assert load_transformer(tmp_path).config == model.config


def test_a_vae_opens_in_diffusers(checkpoint: Checkpoint, tmp_path: Path) -> None:
    vae = load_vae(checkpoint("CogVideoX-5B"))
    write_vae(vae.state_dict(), vae.config, tmp_path, torch.float32)
    peer = AutoencoderKLCogVideoX.from_pretrained(tmp_path).state_dict()
    assert peer.keys() == vae.state_dict().keys()
    assert all(torch.equal(tensor, peer[key]) for key, tensor in vae.state_dict().items())
    assert load_vae(tmp_path).config == vae.config


def test_a_text_encoder_opens_in_transformers(checkpoint: Checkpoint, tmp_path: Path) -> None:
    encoder = load_text_encoder(checkpoint("CogVideoX-5B"))
    write_text_encoder(encoder.model, tmp_path, torch.float32)
    peer = T5EncoderModel.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(tensor, peer[key]) for key, tensor in encoder.model.state_dict().items())
    assert "transformers_version" not in json.loads((tmp_path / "config.json").read_text())


def test_a_scheduler_opens_in_diffusers(tmp_path: Path) -> None:
    config = ScheduleConfig(snr_shift_scale=3.0)
    write_scheduler(config, tmp_path)
    scheduler: Any = CogVideoXDDIMScheduler.from_pretrained(tmp_path)
    peer = scheduler.config
    assert {name: peer[name] for name in asdict(config)} == asdict(config)
    assert (peer["prediction_type"], peer["rescale_betas_zero_snr"]) == ("v_prediction", True)


def test_a_lora_goes_back_on_the_layers_it_is_for(checkpoint: Checkpoint, tmp_path: Path) -> None:
    model = load_transformer(checkpoint("CogVideoX-5B"))
    pairs = pairs_of(model)
    write_lora(pairs, tmp_path, torch.float32)
    lora = load_lora(model, tmp_path / "pytorch_lora_weights.safetensors")
    assert set(lora.file.deltas) == set(pairs) and lora.unmatched == []
    for name, (up, down) in pairs.items():
        delta: Any = lora.file.deltas[name]
        assert torch.equal(delta.up, up) and torch.equal(delta.down, down)


def test_the_index_names_a_class_for_each_folder(tmp_path: Path) -> None:
    write_index(tmp_path, "CogVideoXPipeline")
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["_class_name"] == "CogVideoXPipeline"
    assert index["tokenizer"] == ["transformers", "T5Tokenizer"] and index["vae"][1] == "AutoencoderKLCogVideoX"
    assert describe("X", {"a": 1}) == {"_class_name": "X", "_diffusers_version": "0.33.0", "a": 1}
