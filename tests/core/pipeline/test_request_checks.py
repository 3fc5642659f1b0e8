"""What a request must be: every misfit is one sentence, before anything is computed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image

from cogvideox_core import VARIANTS, Request

T2V, I2V = VARIANTS["CogVideoX-5B"], VARIANTS["CogVideoX-5B-I2V"]
PICTURE = Image.new("RGB", (720, 480))
EMBEDS = torch.zeros(1, 226, 4096)


def refused(sentence: str, *, variant: Any = T2V, **request: Any) -> None:
    request.setdefault("prompt", "a prompt")
    with pytest.raises(ValueError, match=sentence):
        Request(**request).check(variant.transformer, variant)


@pytest.mark.parametrize(
    ("size", "sentence"),
    [
        ({"num_frames": 50}, "num_frames=50; CogVideoX-5B was trained for up to 49 frames; use 49, or allow longer"),
        ({"num_frames": 0}, "num_frames=0; a video has at least 1 frame"),
        ({"position_table": "none"}, "position_table='none'; there are 'trained', 'interpolated', 'omitted'"),
        ({"num_frames": 9.0}, "num_frames=9.0; it is a whole number"),
        ({"height": 488}, "height=488; CogVideoX-5B takes multiples of 16 up to 4096; use 48[08]|496"),
        ({"width": 0}, "width=0; .*; use 16"),
        ({"width": 100_000}, "width=100000; CogVideoX-5B takes multiples of 16 up to 4096; use 4096"),
    ],
)
def test_sizes(size: dict, sentence: str) -> None:
    refused(sentence, **size)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ({"prompt": None}, "give either prompt or prompt_embeds, one of the two"),
        ({"prompt_embeds": EMBEDS}, "give either prompt or prompt_embeds, one of the two"),
        ({"prompt": []}, "a prompt is a text or a list of texts"),
        ({"prompt": ["a", 1]}, "a prompt is a text or a list of texts"),
        ({"prompt": ["a", "b", "c"], "negative_prompt": ["x", "y"]}, "2 negative prompts for 3 prompts"),
        ({"negative_prompt_embeds": EMBEDS}, "negative_prompt_embeds with a prompt"),
        ({"prompt": None, "prompt_embeds": EMBEDS}, "needs negative_prompt_embeds"),
        ({"prompt": None, "prompt_embeds": EMBEDS[..., :64], "guidance_scale": 1.0}, r"takes \(1, 226, 4096\)"),
        (
            {"prompt": None, "prompt_embeds": EMBEDS, "negative_prompt_embeds": EMBEDS[:, :77]},
            r"negative_prompt_embeds of shape \(1, 77, 4096\); this model takes \(1, 226, 4096\)",
        ),
    ],
)
def test_text(text: dict, sentence: str) -> None:
    refused(sentence, **text)


@pytest.mark.parametrize(
    ("pictures", "sentence"),
    [
        ({}, "no image; CogVideoX-5B-I2V makes a video from an image and a prompt"),
        ({"image": PICTURE.resize((512, 512))}, "a picture of 512x512 for a video of 720x480: another aspect ratio"),
        ({"image": PICTURE, "last_image": PICTURE.resize((64, 480))}, "a picture of 64x480"),
        ({"image": [PICTURE, PICTURE]}, "2 images for 1 prompts; give one, or one per prompt"),
        ({"image": "portrait.png"}, "a str where a PIL image, a list of them or a tensor is expected"),
        (
            {"image": torch.zeros(3, 480, 720, dtype=torch.uint8)},
            "a picture tensor of uint8 .* floating point from 0 to 1",
        ),
        ({"image": torch.full((3, 480, 720), 255.0)}, "values from 255 to 255; give floating point from 0 to 1"),
        ({"image": torch.zeros(480, 720, 3)}, r"an image tensor of shape \(480, 720, 3\); give \[3, H, W\]"),
        ({"image": PICTURE, "image_fit": "pad"}, "image_fit='pad'; there are 'refuse', 'stretch', 'crop'"),
        ({"image": PICTURE, "image_scale": "z"}, "image_scale='z'; there are 'diffusers', 'sat', 'scaled'"),
        ({"image": PICTURE, "video": [PICTURE] * 9}, "a video of 9 frames for num_frames=49"),
        (
            {"image": PICTURE, "video": [PICTURE] * 33, "num_frames": None},
            "num_frames=33; .* for exactly 49 frames; give a video of 49, or have the table interpolated or omitted",
        ),
        ({"image": PICTURE, "video": [PICTURE] * 53, "num_frames": 53}, "num_frames=53; .* up to 49 frames; use 49"),
        ({"image": PICTURE, "video": [PICTURE] * 49, "num_frames": 9}, "num_frames=9; .* exactly 49 frames; use 49"),
        ({"image": PICTURE, "background": "purpel"}, "background='purpel'; a colour is a name such as white, or #rr"),
        (
            {"image": PICTURE, "video": torch.zeros(1, 3, 49, 480, 720), "latents": torch.zeros(1)},
            "video and latents are both a place to start from",
        ),
    ],
)
def test_pictures(pictures: dict, sentence: str) -> None:
    refused(sentence, variant=I2V, **({"num_frames": 49} | pictures))


def test_an_image_for_a_model_that_takes_none() -> None:
    refused("an image for CogVideoX-5B, which makes a video from a prompt alone", image=PICTURE)


def test_another_size_than_the_position_table() -> None:
    refused("512x320; .* for 720x480 only; use width 720", variant=I2V, image=PICTURE, width=512, height=320)


@pytest.mark.parametrize(
    ("numbers", "sentence"),
    [
        ({"num_inference_steps": 0}, "num_inference_steps=0; a run takes 1 to 1000 steps"),
        ({"strength": 0.0}, "strength=0.0; it must be above 0 and at most 1"),
        ({"guidance_scale": float("nan")}, "guidance_scale=nan; it must be a finite number"),
        ({"sampler": "euler"}, "sampler='euler'; there are 'ddim', 'dpm'"),
        ({"dynamic_cfg_by": "sigma"}, "dynamic_cfg_by='sigma'; there are 'timestep', 'step'"),
        ({"generator": [torch.Generator()] * 2}, "2 generators for 1 prompts"),
        (
            {"latents": torch.zeros(1, 16, 1, 60, 90)},
            r"latents of shape .*; a video of 720x480, 49 frames takes \(1, 16, 13",
        ),
    ],
)
def test_numbers(numbers: dict, sentence: str) -> None:
    refused(sentence, **numbers)


def test_limits_of_training_may_be_lifted_by_name() -> None:
    size = Request("a prompt", num_frames=57, allow_any_size=True).check(T2V.transformer, T2V)
    assert size.num_frames == 57


def test_sound_requests_have_the_size_that_was_asked_for() -> None:
    assert str(Request("a prompt").check(T2V.transformer, T2V)) == "720x480, 49 frames"
    modern = VARIANTS["CogVideoX1.5-5B"]
    assert str(Request("a prompt", num_frames=161).check(modern.transformer, modern)) == "1360x768, 161 frames"
    video = [PICTURE] * 17
    assert Request("a prompt", video=video).check(T2V.transformer, T2V).num_frames == 17
