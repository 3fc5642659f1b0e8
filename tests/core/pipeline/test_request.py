"""A request: what follows from its fields, and that a pipeline's call has the same ones."""

from __future__ import annotations

import inspect
from dataclasses import MISSING, fields
from typing import get_type_hints

import pytest
import torch

from cogvideox_core import VARIANTS, CogVideoXPipeline, Request, VideoSize

T2V = VARIANTS["CogVideoX-5B"]


def test_a_pipelines_call_shows_every_field_with_its_default_and_type() -> None:
    shown = inspect.signature(CogVideoXPipeline.__call__).parameters
    types = get_type_hints(Request)
    for field in fields(Request):
        assert field.default is not MISSING and shown[field.name].default == field.default, field.name
        assert shown[field.name].annotation == field.type, field.name
        assert field.name in types
    others = set(shown) - {field.name for field in fields(Request)}
    assert others == {"self", "output_type", "callback"}


def test_positional_arguments_of_a_call_are_the_first_fields_in_their_order() -> None:
    shown = inspect.signature(CogVideoXPipeline.__call__).parameters.values()
    positional = [one.name for one in shown if one.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD][1:]
    assert positional == [field.name for field in fields(Request)][: len(positional)]
    assert positional[:6] == ["prompt", "negative_prompt", "image", "last_image", "video", "strength"]


def test_one_negative_prompt_serves_every_prompt() -> None:
    request = Request(["a cat", "a dog"], "blurred")
    assert request.batch == 2
    assert request.negative_prompts == ["blurred", "blurred"]
    assert Request("a cat").prompts == ["a cat"]


def test_one_generator_serves_every_prompt_in_turn() -> None:
    generator = torch.Generator()
    assert Request(["a cat", "a dog"], generator=generator).generators == [generator, generator]
    several = [torch.Generator(), torch.Generator()]
    assert Request(["a cat", "a dog"], generator=several).generators == several


def test_the_batch_of_embeddings_counts_where_there_is_no_prompt() -> None:
    assert Request(prompt_embeds=torch.zeros(3, 226, 8)).batch == 3


@pytest.mark.parametrize(
    ("asked", "size"),
    [
        ({}, VideoSize(480, 720, 49)),
        ({"height": 64, "num_frames": 9}, VideoSize(64, 720, 9)),
        ({"video": torch.zeros(17, 3, 480, 720)}, VideoSize(480, 720, 17)),
        ({"video": torch.zeros(17, 3, 480, 720), "num_frames": 9}, VideoSize(480, 720, 9)),
    ],
)
def test_a_size_that_is_left_out_is_the_models_or_the_videos(asked: dict, size: VideoSize) -> None:
    assert Request("a cat", **asked).size(T2V.transformer, T2V) == size
