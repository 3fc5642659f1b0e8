"""Conditioning that diffusers has no pipeline for: a last image, the other scales of 1.5, video to video with 1.5.

The oracle is the diffusers pipeline next to it, with just its latents changed by code of this file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import CogVideoXDDIMScheduler, CogVideoXImageToVideoPipeline
from PIL import Image

from cogvideox_core import CogVideoXPipeline, load_pipeline
from cogvideox_core.models.shapes import VideoSize
from cogvideox_core.pipeline.conditioning import fit_frame, image_pixels, mask_pixels, video_pixels
from tests.support.parity import assert_parity, relative_difference

MODELS = ("CogVideoX-5B-I2V", "CogVideoX1.5-5B-I2V")
SIZE = {"height": 64, "width": 96, "num_frames": 17}
FIRST, LAST = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0)).split(1)


class Changed(CogVideoXImageToVideoPipeline):
    """Puts `last` into the last latent frame, drawn after the first image, and multiplies all image latents."""

    last: torch.Tensor | None = None
    multiple: float = 1.0

    def prepare_latents(self, image, *arguments):
        latents, image_latents = super().prepare_latents(image, *arguments)
        if self.last is not None:
            generator, scaling = arguments[7], self.vae.config.scaling_factor
            z = self.vae.encode(self.last[:, :, None] * 2 - 1).latent_dist.sample(generator)[:, :, 0]
            image_latents[:, -1] = z / scaling if self.vae.config.invert_scale_latents else z * scaling
        return latents, image_latents * self.multiple


@pytest.fixture(scope="module", params=MODELS)
def pair(request: pytest.FixtureRequest, checkpoint: Callable[..., Path]) -> tuple[CogVideoXPipeline, Changed]:
    folder = checkpoint(request.param)
    reference = Changed.from_pretrained(folder)
    reference.set_progress_bar_config(disable=True)
    return load_pipeline(folder, device="cpu"), reference


def both(pair: tuple[CogVideoXPipeline, Changed], **ours: object) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents of our run and of the reference's, from the same noise and seed."""
    pipeline = pair[0]
    reference: Any = pair[1]
    width = pipeline.transformer.config.text_embed_dim
    random = torch.Generator().manual_seed(1)
    frames = 6 if pipeline.transformer.config.patch_size_t else 5
    run = {
        "image": FIRST,
        "prompt_embeds": torch.randn(1, 226, width, generator=random),
        "negative_prompt_embeds": torch.randn(1, 226, width, generator=random),
        "num_inference_steps": 4,
        **SIZE,
    }
    noise = torch.randn(1, 16, frames, 8, 12, generator=random)
    options = {"latents": noise.transpose(1, 2), "output_type": "latent", "negative_prompt": None}
    theirs = reference(**run, **options, generator=torch.Generator().manual_seed(2)).frames
    options = {"latents": noise, "output_type": "latent"}
    found = pipeline(**run, **ours, **options, generator=torch.Generator().manual_seed(2))
    return found, theirs.transpose(1, 2)


def test_a_last_image_goes_to_the_last_latent_frame(pair: tuple[CogVideoXPipeline, Changed]) -> None:
    without, _ = both(pair)
    pair[1].last = LAST
    try:
        found, wanted = both(pair, last_image=LAST)
    finally:
        pair[1].last = None
    assert_parity(found, wanted, 1e-4, f"{pair[0].variant.name}, first and last image")
    assert relative_difference(found, without) > 1e-3, "the last image makes no difference"


@pytest.mark.parametrize("scale", ["diffusers", "sat", "scaled"])
def test_image_latents_have_the_scale_that_is_asked_for(pair: tuple[CogVideoXPipeline, Changed], scale: str) -> None:
    inverted = pair[1].vae.config.invert_scale_latents  # 1.5: diffusers gives z / s
    pair[1].multiple = {"diffusers": 1.0, "sat": 0.7, "scaled": 0.7**2}[scale] if inverted else 1.0
    try:
        found, wanted = both(pair, image_scale=scale)
    finally:
        pair[1].multiple = 1.0
    assert_parity(found, wanted, 1e-4, f"{pair[0].variant.name}, image_scale={scale}")


class LastPart(CogVideoXDDIMScheduler):
    """The official schedule without its first half."""

    def set_timesteps(self, num_inference_steps: int, device=None) -> None:
        super().set_timesteps(num_inference_steps, device)
        self.timesteps = self.timesteps[num_inference_steps // 2 :]


def test_video_to_video_of_1_5_repeats_the_first_latent_in_front(checkpoint: Callable[..., Path]) -> None:
    """diffusers refuses an odd latent count here, so its text-to-video pipeline starts from latents made by hand."""
    folder = checkpoint("CogVideoX1.5-5B")
    reference: Any = diffusers.CogVideoXPipeline.from_pretrained(folder)
    scheduler: Any = LastPart.from_config(reference.scheduler.config)
    reference.scheduler = scheduler
    reference.set_progress_bar_config(disable=True)
    video = torch.rand(1, 3, 17, 64, 96, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        z = reference.vae.encode(video * 2 - 1).latent_dist.sample(generator) * reference.vae.config.scaling_factor
    clean = torch.cat([z[:, :, :1], z], dim=2).transpose(1, 2)  # [1, 6, 16, 8, 12]
    noise = torch.randn(clean.shape, generator=generator)
    latents = scheduler.add_noise(clean, noise, torch.tensor([499]))
    run: dict[str, Any] = {"prompt": "a red circle", "num_inference_steps": 4}
    wanted = reference(**run, **SIZE, latents=latents, output_type="pt").frames.transpose(1, 2)
    ours = load_pipeline(folder, device="cpu")
    size = {"height": SIZE["height"], "width": SIZE["width"]}
    found = ours(**run, **size, video=video, strength=0.5, generator=torch.Generator().manual_seed(3))
    assert_parity(found, wanted, 1e-4, "CogVideoX1.5-5B, video to video")


# --- Pixels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(4000, 3000), (333, 777), (96, 64), (65, 63)])
@pytest.mark.parametrize("fit", ["crop", "stretch"])
def test_a_photo_of_any_shape_is_fitted(size: tuple[int, int], fit: Any) -> None:
    """What is in the middle stays there; the same for a picture of Pillow's and for a tensor."""
    image = Image.new("RGB", size, "black")
    width, height = size
    image.paste(
        "white", (width // 2 - width // 16, height // 2 - height // 16, width // 2 + width // 16, height // 2 + 1)
    )
    pixels = image_pixels(image, VideoSize(64, 96, 9), fit=fit)
    assert pixels.shape == (1, 3, 1, 64, 96)
    assert pixels[0, :, 0, 31, 47].min() > 0.5 and pixels[0, :, 0, :8].max() < -0.9
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
    assert (fit_frame(tensor, VideoSize(64, 96, 1), fit=fit) * 2 - 1 - pixels[0, :, 0]).abs().mean() < 0.01


def test_a_photo_of_another_shape_is_refused_with_what_to_set() -> None:
    told = "a picture of 333x777 for a video of 96x64: another aspect ratio; .* or set image_fit to 'crop' or 'stretch'"
    with pytest.raises(ValueError, match=told):
        image_pixels(Image.new("RGB", (333, 777)), VideoSize(64, 96, 9))


def test_a_transparent_picture_is_put_on_the_background() -> None:
    size, image = VideoSize(64, 96, 9), Image.new("RGBA", (96, 64), (9, 9, 9, 0))
    assert (image_pixels(image, size) == 1).all()
    assert (video_pixels([image] * 2, size, background="#000") == -1).all()
    assert image_pixels([image], size, background="#ff0000")[0, :, 0, 0, 0].tolist() == [1, -1, -1]


# --- Masks ------------------------------------------------------------------------------------------------------------


def test_a_mask_is_fitted_as_its_video_is() -> None:
    """White stays where it lies in the picture, whatever becomes of the picture's edges."""
    size = VideoSize(64, 96, 2)
    picture = torch.zeros(2, 3, 64, 192)
    picture[..., 80:112] = 1
    for fit in ("crop", "stretch"):
        seen = video_pixels(picture, size, fit=fit)[0, 0] > 0
        mask = mask_pixels(picture[:, 0], size, fit=fit)
        assert mask.shape == (1, 1, 2, 64, 96)
        assert torch.equal(mask[0, 0] > 0.5, seen), fit
    with pytest.raises(ValueError, match="a picture of 192x64 for a video of 96x64: another aspect ratio"):
        mask_pixels(picture[:, 0], size)


def test_one_mask_goes_on_every_frame_and_too_few_are_refused() -> None:
    size = VideoSize(64, 96, 9)
    mask = torch.zeros(64, 96)
    mask[:, 48:] = 1
    assert torch.equal(mask_pixels(mask, size), mask.expand(1, 1, 9, 64, 96))
    with pytest.raises(ValueError, match="mask has 4 frames for length=9; give one, or one per frame"):
        mask_pixels(mask.expand(4, -1, -1), size)
