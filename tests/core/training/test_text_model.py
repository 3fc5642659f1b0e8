"""A text encoder with its tokenizer: loaded, made, and written so that both open again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cogvideox_core.training.demo_world.world_clips import WorldClips
from cogvideox_core.training.text_model import load_text_model, new_text_model
from tests.support.training_runs import TEXT


def test_prompts_are_padded_and_cut_to_a_length(toy: Path) -> None:
    text = load_text_model(toy)
    ids = text.tokenize(["a red ball", "a ball " * 50], 12)
    assert ids.shape == (2, 12)
    assert ids[0, -1] == text.tokenizer.pad_token_id != ids[1, -2]
    assert not text.encoder.training
    assert text.encoder(ids)[0].shape == (2, 12, text.encoder.config.d_model)


def test_a_written_text_model_opens_again(toy: Path, tmp_path: Path) -> None:
    text = load_text_model(toy)
    text.write(tmp_path, torch.float32)
    again = load_text_model(tmp_path)
    ids = text.tokenize(["a red ball"], 9)
    assert torch.equal(again.tokenize(["a red ball"], 9), ids)
    assert torch.equal(again.encoder(ids)[0], text.encoder(ids)[0])


@pytest.mark.slow  # a tokenizer is trained on 20 000 captions
def test_a_new_text_model_has_an_embedding_for_every_token(tmp_path: Path) -> None:
    text = new_text_model(TEXT["text_encoder"], WorldClips(), tmp_path / "tokenizer")
    assert text.encoder.config.d_model == 48 and text.encoder.config.is_gated_act
    assert text.encoder.get_input_embeddings().num_embeddings >= len(text.tokenizer)
    assert "\u2581bouncing" in text.tokenizer.tokenize("a red ball bouncing")


def test_a_new_text_model_needs_the_size_of_its_vocabulary(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="text_encoder has vocab_size None; it takes how many pieces"):
        new_text_model({"d_model": 32}, WorldClips(), tmp_path)
