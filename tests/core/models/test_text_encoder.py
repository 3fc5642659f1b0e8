"""The text encoder beside diffusers on a toy T5 with a real SentencePiece tokenizer, and what it says to bad input."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cogvideox_core.models.text_encoder import TextEncoder
from cogvideox_core.weights.t5 import load_text_encoder
from tests.provision import REPO
from tests.support.parity import assert_parity

Checkpoint = Callable[..., Path]

KIND = "CogVideoX-5B"
LONG = "a red circle moves to the right and then to the left, " * 40
PROMPTS = {
    "one": ["a red circle moves to the right"],
    "empty": [""],
    "blank": [" \n\t "],
    "batch": ["a cat", "", "two gulls circle above the harbour; an old man plays"],
    "not ASCII": ["ein rötlicher Kreis, \uff21 \u6f22\u5b57 \U0001f388 – “straße”"],
    "lines and specials": ["a red\ncircle </s> on <extra_id_3> <pad> blue", "it's  ...  <html>&amp;"],
    "long": [LONG],
    "long and short": [LONG, "a cat"],
    "just fits": ["a " * 225],
    "one too many": ["a " * 226],
}


@pytest.fixture
def encoder(checkpoint: Checkpoint) -> TextEncoder:
    return load_text_encoder(checkpoint(KIND))


# --- Numbers --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reference(checkpoint: Checkpoint) -> Any:
    from diffusers import CogVideoXPipeline

    return CogVideoXPipeline.from_pretrained(checkpoint(KIND))


@pytest.mark.parametrize("name", PROMPTS)
def test_embeddings_are_those_of_diffusers(reference: Any, encoder: TextEncoder, name: str) -> None:
    with torch.no_grad():
        wanted = reference._get_t5_prompt_embeds(PROMPTS[name])
    assert_parity(encoder(PROMPTS[name]), wanted, 1e-6, f"text encoder, {name}")
    assert wanted.shape == (len(PROMPTS[name]), 226, 32)


# --- Tokens ---------------------------------------------------------------------------------------------------------


def test_tokens_are_counted_with_the_closing_one(encoder: TextEncoder) -> None:
    assert encoder.count_tokens("") == 1
    assert [encoder.count_tokens("a " * n) for n in (1, 225, 226, 3000)] == [2, 226, 227, 3001]


def test_the_part_that_does_not_fit_is_shown(encoder: TextEncoder) -> None:
    fits = "a " * 225
    assert encoder.truncated_part(fits) == encoder.truncated_part("") == ""
    assert encoder.truncated_part(fits + "a red circle") == "a red circle"


def test_a_cut_prompt_is_named_in_a_warning(encoder: TextEncoder, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        encoder(["a " * 225])
        assert caplog.messages == []
        encoder(["short", "a " * 225 + "red circle"])
    (record,) = caplog.records
    assert record.name == "cogvideox"
    told = encoder.count_tokens("a " * 225 + "red circle")
    assert record.getMessage() == f"The prompt has {told} tokens and 226 fit; this part is cut off: red circle"


def test_what_goes_into_the_model_is_padded_closed_and_not_masked(encoder: TextEncoder) -> None:
    seen: list[tuple[torch.Tensor, dict[str, Any]]] = []
    encoder.model.register_forward_pre_hook(lambda _, given, named: seen.append((given[0], named)), with_kwargs=True)
    encoder([LONG, "a"])
    ((tokens, named),) = seen
    assert named == {} and tokens.shape == (2, 226)
    assert tokens[0, -1] == 1 and (tokens[0] != 0).all(), "a cut prompt is closed like a whole one"
    assert tokens[1, 1] == 1 and (tokens[1, 2:] == 0).all()


def test_another_length_may_be_asked_for(checkpoint: Checkpoint) -> None:
    encoder = load_text_encoder(checkpoint(KIND), max_length=16)
    assert encoder(["a cat"]).shape == (1, 16, 32)
    assert encoder.truncated_part("a " * 15 + "cat") != "" == encoder.truncated_part("a " * 15)


# --- What does not fit ----------------------------------------------------------------------------------------------


def test_embeddings_that_are_not_finite_name_the_dtype(checkpoint: Checkpoint) -> None:
    encoder = load_text_encoder(checkpoint(KIND), dtype="float16")
    encoder.model.shared.weight.data[:] = torch.inf
    with pytest.raises(FloatingPointError, match="not finite in torch.float16; load it in bfloat16 or float32"):
        encoder(["a"])


def test_nothing_is_asked_of_the_network(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse_to_connect(*_: Any) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(socket.socket, "connect", refuse_to_connect)
    monkeypatch.setattr(socket, "getaddrinfo", refuse_to_connect)
    load_text_encoder(checkpoint(KIND))(["a cat"])


def test_prompts_are_encoded_without_diffusers_and_accelerate(checkpoint: Checkpoint) -> None:
    script = (
        "import sys; sys.modules['diffusers'] = sys.modules['accelerate'] = None\n"
        "from cogvideox_core import load_text_encoder\n"
        "assert 'transformers' not in sys.modules, 'imported where it is used'\n"
        "print(load_text_encoder(sys.argv[1])(['a cat']).shape)"
    )
    told = subprocess.run(
        [sys.executable, "-c", script, str(checkpoint(KIND))],
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert told.stdout.strip() == "torch.Size([1, 226, 32])", told.stderr
