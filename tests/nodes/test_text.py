"""Prompts in the real host against the core: tokens, padding, truncation, and ComfyUI's own text node."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from graphs import PROMPT, loaders, node, saved_tensor
from host import Host
from parity import assert_parity

from cogvideox_core import CogVideoXPipeline

KIND = "CogVideoX-5B"
PROMPTS = {
    "plain": PROMPT,
    "empty": "",
    "brackets": "a (red:1.4) circle ((bright)) [blue] and a \\ backslash",
    "accents": "Ein größerer Kreis – schön, naïve, 円",
    "too long": "a red circle moves over the forest " * 60,
}


def encoded(host: Host, text: str) -> torch.Tensor:
    graph = {**loaders(KIND), "probe": node("ProbeSaveConditioning", conditioning=["positive", 0], name="text")}
    del graph["model"], graph["vae"], graph["negative"]
    graph["positive"]["inputs"]["text"] = text
    return saved_tensor(host.run(graph), "probe")


@pytest.mark.parametrize("name", PROMPTS)
def test_a_prompt_is_encoded_as_in_the_core(host: Host, core: Callable[[str], CogVideoXPipeline], name: str) -> None:
    expected = core(KIND).text_encoder([PROMPTS[name]])
    assert_parity(encoded(host, PROMPTS[name]), expected, 1e-5, f"{name} prompt in the host")
