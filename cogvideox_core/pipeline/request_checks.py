"""Whether a model can do what a request asks for: checked before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any, get_args

from ..models.config import PositionTable, TransformerConfig, VAEConfig
from ..models.shapes import VideoSize, check_size, latent_size, nearest_computed
from ..models.vae.tiling import TilingChoice
from ..models.variants import Variant, taking
from ..sampling.guidance import DynamicBy
from ..sampling.samplers import SAMPLERS
from ..videos.background import parse_colour
from .conditioning import Fit, ImageScale, check_aspect, check_pictures, frame_count, image_count

if TYPE_CHECKING:
    from .request import Request


def check_request(request: Request, config: TransformerConfig, variant: Variant) -> VideoSize:
    """The size of the requested video, if this model can make it.

    Raises: ValueError that says what came, what fits and what to do.
    """
    for picture in (request.image, request.last_image, request.video):
        check_pictures(picture)
    for name in ("height", "width", "num_frames", "num_inference_steps"):
        value = getattr(request, name)
        if value is not None and not isinstance(value, Integral):
            raise ValueError(f"{name}={value!r}; it is a whole number")
    size = request.size(config, variant)
    options: dict[str, Any] = {"allow_any_size": request.allow_any_size, "position_table": request.table}
    there = None if request.video is None else frame_count(request.video)
    check_size(size, config, variant, there=there, **options)
    _check_text(request, config)
    _check_pictures(request, size, config, variant)
    _check_numbers(request)
    request.approximation.check()
    if request.latents is not None:
        wanted = latent_size(size, config, variant).shape(request.batch, config.out_channels)
        if tuple(request.latents.shape) != wanted:
            raise ValueError(f"latents of shape {tuple(request.latents.shape)}; a video of {size} takes {wanted}")
    return size


def _check_text(request: Request, config: TransformerConfig) -> None:
    if (request.prompt is None) == (request.prompt_embeds is None):
        raise ValueError("give either prompt or prompt_embeds, one of the two")
    if request.prompt_embeds is None:
        if request.negative_prompt_embeds is not None:
            raise ValueError("negative_prompt_embeds with a prompt; give prompt_embeds too, or negative_prompt")
        if not request.prompts or not all(isinstance(prompt, str) for prompt in request.prompts):
            raise ValueError(f"prompt={request.prompt!r}; a prompt is a text or a list of texts")
        if len(request.negative_prompts) != request.batch:
            count = len(request.negative_prompts)
            raise ValueError(f"{count} negative prompts for {request.batch} prompts; give one, or one per prompt")
        return
    missing = request.negative_prompt_embeds is None and not request.zero_negative_prompt
    if request.guidance.active and missing:
        raise ValueError(
            f"guidance_scale={request.guidance_scale} with prompt_embeds needs negative_prompt_embeds; give them, or "
            "set zero_negative_prompt or a guidance_scale of 1"
        )
    for name, embeds in (
        ("prompt_embeds", request.prompt_embeds),
        ("negative_prompt_embeds", request.negative_prompt_embeds),
    ):
        wanted = (*request.prompt_embeds.shape[:2], config.text_embed_dim)
        if embeds is not None and tuple(embeds.shape) != wanted:
            raise ValueError(
                f"{name} of shape {tuple(embeds.shape)}; this model takes {wanted}: embeddings of the text "
                "encoder that belongs to it"
            )


def _check_pictures(request: Request, size: VideoSize, config: TransformerConfig, variant: Variant) -> None:
    variant = _as_asked(request, variant)
    parse_colour(request.background)
    if variant.conditioning not in ("text", "image"):
        raise ValueError(
            f"{variant.name} makes a video from another one ({variant.conditioning}), which only the ComfyUI nodes "
            "do; load a text-to-video or image-to-video model"
        )
    takes_image = variant.conditioning == "image"
    if takes_image and request.image is None:
        raise ValueError(f"no image; {variant.name} makes a video from an image and a prompt; give image")
    if not takes_image and (request.image is not None or request.last_image is not None):
        raise ValueError(
            f"an image for {variant.name}, which makes a video from a prompt alone; leave the image out or load "
            "an image-to-video model"
        )
    if request.last_image is not None:
        _check_last_image(size.num_frames, variant.vae)
    if request.video is not None and request.latents is not None:
        raise ValueError("video and latents are both a place to start from; give one of the two")
    if request.video is not None and frame_count(request.video) < size.num_frames:
        raise ValueError(
            f"a video of {frame_count(request.video)} frames for num_frames={size.num_frames}; ask for at most as "
            "many frames as it has"
        )
    for name in ("image", "last_image"):
        picture = getattr(request, name)
        if picture is not None and image_count(picture) not in (1, request.batch):
            raise ValueError(f"{image_count(picture)} {name}s for {request.batch} prompts; give one, or one per prompt")
    for picture in (request.image, request.last_image, request.video):
        if picture is not None:
            check_aspect(picture, size, request.image_fit)


def _check_last_image(num_frames: int, vae: VAEConfig) -> None:
    """Refuse a length whose last computed frame, which is the last image, would be cut off."""
    if num_frames == 1:
        raise ValueError("num_frames=1 with a last image; a video from first to last image takes at least 9 frames")
    nearest = nearest_computed(num_frames, vae)
    if num_frames not in nearest:
        raise ValueError(
            f"num_frames={num_frames} with a last image, which is the last of the {nearest[-1]} frames that are "
            f"computed and would be cut off; use {' or '.join(map(str, nearest))}"
        )


def _as_asked(request: Request, variant: Variant) -> Variant:
    """The variant that is given what the request gives, where the weights could be of several."""
    return (request.image is not None and taking(variant, "image")) or variant


def _check_numbers(request: Request) -> None:
    if not 1 <= request.num_inference_steps <= 1000:
        raise ValueError(f"num_inference_steps={request.num_inference_steps}; a run takes 1 to 1000 steps")
    if not 0.0 < request.strength <= 1.0:
        raise ValueError(f"strength={request.strength}; it must be above 0 and at most 1")
    if not math.isfinite(request.guidance_scale):
        raise ValueError(f"guidance_scale={request.guidance_scale}; it must be a finite number, 6 is usual")
    if request.sampler not in SAMPLERS:
        raise ValueError(f"sampler={request.sampler!r}; there are {', '.join(map(repr, SAMPLERS))}")
    for name, kind in (
        ("image_fit", Fit),
        ("image_scale", ImageScale),
        ("dynamic_cfg_by", DynamicBy),
        ("vae_tiling", TilingChoice),
        ("position_table", PositionTable),
    ):
        if getattr(request, name) not in get_args(kind):
            choices = ", ".join(map(repr, get_args(kind)))
            raise ValueError(f"{name}={getattr(request, name)!r}; there are {choices}")
    if isinstance(request.generator, Sequence) and len(request.generator) != request.batch:
        raise ValueError(
            f"{len(request.generator)} generators for {request.batch} prompts; give one, or one per prompt"
        )
