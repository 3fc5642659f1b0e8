"""What the core uses of transformers and diffusers is there, and is what it is taken for."""

from __future__ import annotations

from importlib import import_module
from operator import attrgetter
from typing import Any

import pytest
import torch
import transformers

from cogvideox_core.models.library_symbols import DIFFUSERS, TRANSFORMERS
from cogvideox_core.models.text_encoder import t5_model

SIZES: dict[str, Any] = dict(
    vocab_size=32, d_model=8, d_kv=2, d_ff=12, num_heads=2, num_layers=2, feed_forward_proj="gated-gelu"
)


def get(model: Any, name: str) -> Any:
    """An attribute by its path, in which numbers count the parts of a list."""
    for part in name.split("."):
        model = model[int(part)] if part.isdigit() else getattr(model, part)
    return model


@pytest.mark.parametrize("name", list(TRANSFORMERS))
def test_this_transformers_has(name: str) -> None:
    told = f"transformers {transformers.__version__} has no {name} in a T5EncoderModel any more: {TRANSFORMERS[name]}"
    try:
        assert get(t5_model(SIZES), name) is not None, told
    except (AttributeError, IndexError, KeyError) as error:
        raise AssertionError(told) from error


@pytest.mark.parametrize("name", list(DIFFUSERS))
def test_this_diffusers_has(name: str) -> None:
    module, _, leaf = name.rpartition(".")
    assert callable(attrgetter(leaf)(import_module(f"diffusers.{module}"))), f"no diffusers.{name}: {DIFFUSERS[name]}"


def test_one_embedding_serves_both_names_once_it_is_set() -> None:
    model = t5_model(SIZES)
    model.shared.weight = torch.nn.Parameter(torch.ones(32, 8), requires_grad=False)
    model.encoder.set_input_embeddings(model.shared)
    assert model.encoder.embed_tokens.weight is model.shared.weight
