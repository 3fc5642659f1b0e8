"""The options of `cogvideox PROMPT`: their defaults are those of a request, their choices those of the code."""

from __future__ import annotations

from argparse import ArgumentParser

import pytest

from cogvideox_core.cli.options import add_arguments
from cogvideox_core.models.transformer.attention import AUTO, BACKENDS
from cogvideox_core.pipeline.request import Request


@pytest.fixture
def parser() -> ArgumentParser:
    made = ArgumentParser(allow_abbrev=False)
    add_arguments(made)
    return made


def test_what_is_left_out_is_the_default_of_a_request_or_of_the_model(parser: ArgumentParser) -> None:
    options = parser.parse_args(["a cat"])
    for name in ("negative_prompt", "vae_tiling", "cache_budget", "teacache", "guidance_until"):
        assert getattr(options, name) == getattr(Request(), name), name
    for name in ("frames", "height", "width", "fps", "steps", "guidance", "sampler", "dynamic_cfg", "seed", "dtype"):
        assert getattr(options, name) is None, f"{name} has a default of its own, not the model's"


@pytest.mark.parametrize("name", [AUTO, *BACKENDS])
def test_every_attention_backend_can_be_chosen(parser: ArgumentParser, name: str) -> None:
    assert parser.parse_args(["a cat", "--attention", name]).attention == name


def test_several_loras_keep_their_order(parser: ArgumentParser) -> None:
    assert parser.parse_args(["a cat", "--lora", "b:0.5", "--lora", "a"]).lora == ["b:0.5", "a"]


def test_a_prompt_is_needed_but_with_a_list_or_embeddings(parser: ArgumentParser) -> None:
    assert parser.parse_args(["--embeds", "a.safetensors"]).prompt is None
    for option, kind in (("--model", "transformer"), ("--vae", "vae"), ("--t5", "text_encoder"), ("--lora", "lora")):
        asked = parser.parse_args([option, "--steps", "2"])
        assert (asked.listed, asked.prompt, asked.steps) == (kind, None, 2)


def test_a_prompt_may_stand_anywhere(parser: ArgumentParser) -> None:
    for arguments in (["a cat", "--model", "m", "--lora", "l"], ["--model", "m", "a cat", "--lora", "l"]):
        asked = parser.parse_args(arguments)
        assert (asked.prompt, asked.model, asked.lora, asked.listed) == ("a cat", "m", ["l"], None)
    assert parser.parse_args(["a cat"]).lora == []


def test_dynamic_guidance_can_be_switched_on_and_off(parser: ArgumentParser) -> None:
    assert parser.parse_args(["a cat", "--dynamic-cfg"]).dynamic_cfg is True
    assert parser.parse_args(["a cat", "--no-dynamic-cfg"]).dynamic_cfg is False
