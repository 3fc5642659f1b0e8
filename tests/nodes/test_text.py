"""Prompts in the real host against the core: tokens, padding, truncation, and ComfyUI's own text node."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType, SimpleNamespace

import pytest
import torch

from cogvideox_core import CogVideoXPipeline
from tests.support.graphs import PROMPT, loaders, node, saved_tensor
from tests.support.host import Host
from tests.support.parity import assert_parity

KIND = "CogVideoX-5B"
PROMPTS = {
    "plain": PROMPT,
    "empty": "",
    "brackets": "a (red:1.4) circle ((bright)) [blue] and a \\ backslash",
    "accents": "Ein größerer Kreis – schön, naïve, \u5186",
    "too long": "a red circle moves over the forest " * 60,
}


def encoded(host: Host, text: str) -> torch.Tensor:
    graph = {**loaders(KIND), "probe": node("ProbeSaveConditioning", conditioning=["positive", 0], name="text")}
    del graph["model"], graph["vae"], graph["negative"]
    graph["positive"]["inputs"]["text"] = text
    return saved_tensor(host.run(graph), "probe")


@pytest.mark.parametrize("name", PROMPTS)
def test_a_prompt_is_encoded_as_in_the_core(host: Host, core: Callable[[str], CogVideoXPipeline], name: str) -> None:
    encode = core(KIND).text_encoder
    assert encode is not None
    expected = encode([PROMPTS[name]])
    assert_parity(encoded(host, PROMPTS[name]), expected, 1e-5, f"{name} prompt in the host")


@pytest.mark.parametrize("text", [PROMPT, PROMPTS["too long"]], ids=["plain", "too long"])
def test_a_clip_of_type_sd3_is_asked_for_its_t5_alone(pack: ModuleType, text: str) -> None:
    """ComfyUI's own tokenizer and model of that type, as Load CLIP makes them of a T5 alone; its size is left out."""
    sd3 = importlib.import_module("comfy.text_encoders.sd3_clip")
    tokenizer = sd3.SD3Tokenizer()
    clip = SimpleNamespace(tokenizer=tokenizer, tokenize=tokenizer.tokenize_with_weights)
    tokens, count, cut = importlib.import_module(f"{pack.__name__}.nodes.host.types.clip").tokenize(clip, text)
    assert (tokens["g"], tokens["l"], len(tokens["t5xxl"][0])) == ([], [], 226)
    assert (count > 226, cut.endswith("over the forest")) == (text != PROMPT,) * 2
    model = sd3.SD3ClipModel(clip_l=False, clip_g=False, t5=False)
    model.encode_token_weights(tokens)
