"""Key names of every program: a model opens the same, whatever program wrote it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cogvideox_core import load_transformer, load_vae
from cogvideox_core.models.variants import VARIANTS
from cogvideox_core.weights.components import open_component
from cogvideox_core.weights.load import read_transformer
from cogvideox_core.weights.t5 import read_text_encoder
from tests.support.checkpoints import (
    OFFICIAL,
    make_checkpoint,
    random_vae,
    toy_vae_config,
    whole_model,
)
from tests.support.parity import snr_db
from tests.support.toy_transformers import state_of, with_config
from tests.support.weight_forms import (
    RENAMED,
    gguf_t5_name,
    prefixed,
    sat,
    sat_vae,
    sat_with_t5_and_vae,
    true_gguf,
)

KINDS = list(OFFICIAL)


@pytest.mark.parametrize("form", RENAMED)
@pytest.mark.parametrize("kind", KINDS)
def test_other_names_are_the_same_model(kind: str, form: str, tmp_path: Path) -> None:
    state = state_of(kind)
    path = with_config(RENAMED[form](state, tmp_path), kind)
    model = load_transformer(path)
    assert model.variant is VARIANTS[kind]
    loaded = model.state_dict()
    assert loaded.keys() == state.keys()
    for key, tensor in state.items():
        assert torch.equal(loaded[key], tensor), key


def test_the_sines_sat_stores_for_2b_are_dropped_and_the_table_of_an_image_model_is_kept(tmp_path: Path) -> None:
    two = with_config(sat(state_of("CogVideoX-2B"), tmp_path / "2b"), "CogVideoX-2B")
    assert not read_transformer(two).config.use_learned_positional_embeddings
    image = with_config(sat(state_of("CogVideoX-5B-I2V"), tmp_path / "i2v"), "CogVideoX-5B-I2V")
    assert read_transformer(image).config.use_learned_positional_embeddings


def test_a_vae_of_sat_is_the_same_vae(tmp_path: Path) -> None:
    state = random_vae(toy_vae_config("CogVideoX-5B")).state_dict()
    (tmp_path / "config.json").write_text(json.dumps(toy_vae_config("CogVideoX-5B")))
    sat_vae(state, tmp_path)
    loaded = load_vae(tmp_path).state_dict()
    assert loaded.keys() == state.keys()
    for key, tensor in state.items():
        assert torch.equal(loaded[key], tensor), key


@pytest.mark.parametrize("prefix", ["first_stage_model.", "vae."])
def test_one_file_may_hold_a_whole_model(prefix: str, tmp_path: Path) -> None:
    transformer, vae = state_of("CogVideoX-5B"), random_vae(toy_vae_config("CogVideoX-5B")).state_dict()
    tensors = {"model.diffusion_model." + key: tensor for key, tensor in transformer.items()}
    tensors |= {prefix + key: tensor for key, tensor in vae.items()}
    tensors["cond_stage_model.logit_scale"] = torch.zeros(())
    path = prefixed("")(tensors, tmp_path)
    assert load_transformer(path).state_dict().keys() == transformer.keys()
    assert open_component(path, "vae").shapes == {key: tuple(tensor.shape) for key, tensor in vae.items()}


def test_a_full_fine_tune_with_sat_holds_three_models(tmp_path: Path) -> None:
    transformer, vae, text_encoder = whole_model()
    run = sat_with_t5_and_vae(transformer, vae, text_encoder, tmp_path)
    text_encoder.pop("encoder.embed_tokens.weight")
    for path in (run, run / "1000", run / "1000" / "mp_rank_00_model_states.pt"):
        opened = load_transformer(path).state_dict(), load_vae(path).state_dict(), read_text_encoder(path).state_dict
        for found, wanted in zip(opened, (transformer, vae, text_encoder), strict=True):
            assert found.keys() == wanted.keys()
            assert not [key for key, tensor in wanted.items() if not torch.equal(found[key], tensor)]


def test_a_t5_of_llama_cpp_is_the_same_t5(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "model", "CogVideoX-5B", text_width=64)
    state = load_file(folder / "text_encoder" / "model.safetensors")
    state = {key: tensor for key, tensor in state.items() if key != "encoder.embed_tokens.weight"}
    path = true_gguf("Q8_0", gguf_t5_name, "t5encoder")(state, tmp_path)
    opened = open_component(path, "text_encoder")
    assert opened.shapes == {key: tuple(tensor.shape) for key, tensor in state.items()}
    for key, tensor in state.items():
        assert snr_db(opened[key].to(torch.float32) + 0, tensor) > 40, key
