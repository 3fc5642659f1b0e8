"""One run as the user asks for it, and whether a model can do it: checked before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, get_args

import torch
from torch import Tensor

from ..models.config import TransformerConfig
from ..models.noise import Generator
from ..models.shapes import VideoSize, check_size, default_size, latent_size
from ..models.vae.memory_plan import TilingChoice
from ..models.variants import SamplerName, Variant
from ..sampling.approximation import Approximation
from ..sampling.guidance import DynamicBy
from ..sampling.loop import Guidance
from ..sampling.samplers import SAMPLERS
from .conditioning import Fit, ImageScale, check_aspect, check_pictures, frame_count, image_count


@dataclass(frozen=True, eq=False)
class Request:
    """What to make. Names and defaults are those of diffusers' CogVideoX pipelines where the meaning is the same.

    Attributes:
        prompt, negative_prompt: one or a batch; or `prompt_embeds`, `negative_prompt_embeds` [B, L, D] instead.
        image, last_image: first and last frame, for an image-to-video model; PIL images or tensors in [0, 1].
        video, strength: a video to start from, and how much of it is made anew, above 0 to 1.
        height, width, num_frames: pixels and frames; None for what the model was trained at (or the video's frames).
        num_inference_steps: denoising steps of a whole run, 1 to 1000.
        sampler: "ddim" or "dpm".
        guidance_scale: 1 or less runs without guidance.
        use_dynamic_cfg: vary the guidance scale by the published formula.
        dynamic_cfg_by: what goes into that formula: "timestep" as published, or "step", the smooth reading.
        generator: a `torch.Generator` or one per video; draws in diffusers' order.
        latents: noise [B, 16, T, h, w] to start from instead of drawing it.
        image_fit: pictures of another aspect ratio: "refuse", "stretch" or "crop".
        image_scale: scale of the image latents of 1.5: "diffusers", "sat" or "scaled".
        sample_posterior: draw image and video latents from the VAE's posterior, as the reference; False takes its mean.
        zero_negative_prompt: zeros in place of the encoded negative prompt, as SAT does.
        allow_any_size: lift the limits of training on the frame count.
        vae_tiling: "exact"; "blended" tiles as in diffusers, for less memory; "auto" is exact while that fits into what
            is free.
        cache_budget, teacache, guidance_until: what may be traded for speed, see `Approximation`; off by default.
    """

    prompt: str | Sequence[str] | None = None
    negative_prompt: str | Sequence[str] = ""
    image: Any = None
    last_image: Any = None
    video: Any = None
    strength: float = 0.8
    height: int | None = None
    width: int | None = None
    num_frames: int | None = None
    num_inference_steps: int = 50
    guidance_scale: float = 6.0
    use_dynamic_cfg: bool = False
    sampler: SamplerName = "ddim"
    generator: Generator = None
    latents: Tensor | None = None
    prompt_embeds: Tensor | None = None
    negative_prompt_embeds: Tensor | None = None
    dynamic_cfg_by: DynamicBy = "timestep"
    image_fit: Fit = "refuse"
    image_scale: ImageScale = "diffusers"
    sample_posterior: bool = True
    zero_negative_prompt: bool = False
    allow_any_size: bool = False
    vae_tiling: TilingChoice = "auto"
    cache_budget: float = 0.0
    teacache: float = 0.0
    guidance_until: float = 1.0

    @property
    def approximation(self) -> Approximation:
        return Approximation(self.cache_budget, self.teacache, self.guidance_until)

    @property
    def guidance(self) -> Guidance:
        return Guidance(self.guidance_scale, self.use_dynamic_cfg, self.dynamic_cfg_by)

    @property
    def prompts(self) -> list[str]:
        """The prompts as a list; empty when embeddings are given."""
        return _as_list(self.prompt)

    @property
    def negative_prompts(self) -> list[str]:
        """One negative prompt per prompt."""
        prompts = _as_list(self.negative_prompt)
        return prompts * self.batch if len(prompts) == 1 else prompts

    @property
    def generators(self) -> list[torch.Generator | None]:
        """One generator per prompt; the same one where one was given."""
        if isinstance(self.generator, Sequence):
            return list(self.generator)
        return [self.generator] * self.batch

    @property
    def batch(self) -> int:
        return len(self.prompts) if self.prompt_embeds is None else len(self.prompt_embeds)

    def size(self, config: TransformerConfig, variant: Variant) -> VideoSize:
        """The size of the video, defaults filled in."""
        default = default_size(config, variant)
        num_frames = default.num_frames if self.video is None else frame_count(self.video)
        return VideoSize(
            default.height if self.height is None else self.height,
            default.width if self.width is None else self.width,
            num_frames if self.num_frames is None else self.num_frames,
        )

    def check(self, config: TransformerConfig, variant: Variant) -> VideoSize:
        """The size of the video, when this model can make it.

        Raises: ValueError that says what came, what fits and what to do.
        """
        for picture in (self.image, self.last_image, self.video):
            check_pictures(picture)
        for name in ("height", "width", "num_frames", "num_inference_steps"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, Integral):
                raise ValueError(f"{name}={value!r}; it is a whole number")
        size = self.size(config, variant)
        check_size(size, config, variant, allow_any_size=self.allow_any_size)
        self._check_text(config)
        self._check_pictures(size, config, variant)
        self._check_numbers()
        self.approximation.check()
        if self.latents is not None:
            wanted = latent_size(size, config, variant).shape(self.batch, config.out_channels)
            if tuple(self.latents.shape) != wanted:
                raise ValueError(f"latents of shape {tuple(self.latents.shape)}; a video of {size} takes {wanted}")
        return size

    def _check_text(self, config: TransformerConfig) -> None:
        if (self.prompt is None) == (self.prompt_embeds is None):
            raise ValueError("give either prompt or prompt_embeds, one of the two")
        if self.prompt_embeds is None:
            if self.negative_prompt_embeds is not None:
                raise ValueError("negative_prompt_embeds beside a prompt; give prompt_embeds too, or negative_prompt")
            if not self.prompts or not all(isinstance(prompt, str) for prompt in self.prompts):
                raise ValueError(f"prompt={self.prompt!r}; a prompt is a text or a list of texts")
            if len(self.negative_prompts) != self.batch:
                count = len(self.negative_prompts)
                raise ValueError(f"{count} negative prompts for {self.batch} prompts; give one, or one per prompt")
            return
        missing = self.negative_prompt_embeds is None and not self.zero_negative_prompt
        if self.guidance.active and missing:
            raise ValueError(
                f"guidance_scale={self.guidance_scale} with prompt_embeds needs negative_prompt_embeds; give them, or "
                "set zero_negative_prompt or a guidance_scale of 1"
            )
        for name, embeds in (
            ("prompt_embeds", self.prompt_embeds),
            ("negative_prompt_embeds", self.negative_prompt_embeds),
        ):
            wanted = (*self.prompt_embeds.shape[:2], config.text_embed_dim)
            if embeds is not None and tuple(embeds.shape) != wanted:
                raise ValueError(
                    f"{name} of shape {tuple(embeds.shape)}; this model takes {wanted}: embeddings of the text "
                    "encoder that belongs to it"
                )

    def _check_pictures(self, size: VideoSize, config: TransformerConfig, variant: Variant) -> None:
        if variant.conditioning not in ("text", "image"):
            raise ValueError(
                f"{variant.name} makes a video from another one ({variant.conditioning}), which only the ComfyUI nodes "
                "do; load a text-to-video or image-to-video model"
            )
        takes_image = variant.conditioning == "image"
        if takes_image and self.image is None:
            raise ValueError(f"no image; {variant.name} makes a video from an image and a prompt; give image")
        if not takes_image and (self.image is not None or self.last_image is not None):
            raise ValueError(
                f"an image for {variant.name}, which makes a video from a prompt alone; leave the image out or load "
                "an image-to-video model"
            )
        if self.last_image is not None and size.num_frames == 1:
            raise ValueError("num_frames=1 with a last image; a video from first to last image takes at least 9 frames")
        if self.video is not None and self.latents is not None:
            raise ValueError("video and latents are both a place to start from; give one of the two")
        if self.video is not None and frame_count(self.video) < size.num_frames:
            raise ValueError(
                f"a video of {frame_count(self.video)} frames for num_frames={size.num_frames}; ask for at most as "
                "many frames as it has"
            )
        for name in ("image", "last_image"):
            picture = getattr(self, name)
            if picture is not None and image_count(picture) not in (1, self.batch):
                raise ValueError(
                    f"{image_count(picture)} {name}s for {self.batch} prompts; give one, or one per prompt"
                )
        for picture in (self.image, self.last_image, self.video):
            if picture is not None:
                check_aspect(picture, size, self.image_fit)

    def _check_numbers(self) -> None:
        if not 1 <= self.num_inference_steps <= 1000:
            raise ValueError(f"num_inference_steps={self.num_inference_steps}; a run takes 1 to 1000 steps")
        if not 0.0 < self.strength <= 1.0:
            raise ValueError(f"strength={self.strength}; it lies above 0 and at most at 1")
        if not math.isfinite(self.guidance_scale):
            raise ValueError(f"guidance_scale={self.guidance_scale}; it must be a finite number, 6 is usual")
        if self.sampler not in SAMPLERS:
            raise ValueError(f"sampler={self.sampler!r}; there are {', '.join(map(repr, SAMPLERS))}")
        for name, kind in (
            ("image_fit", Fit),
            ("image_scale", ImageScale),
            ("dynamic_cfg_by", DynamicBy),
            ("vae_tiling", TilingChoice),
        ):
            if getattr(self, name) not in get_args(kind):
                choices = ", ".join(map(repr, get_args(kind)))
                raise ValueError(f"{name}={getattr(self, name)!r}; there are {choices}")
        if isinstance(self.generator, Sequence) and len(self.generator) != self.batch:
            raise ValueError(f"{len(self.generator)} generators for {self.batch} prompts; give one, or one per prompt")


def _as_list(text: str | Sequence[str] | None) -> list[str]:
    if text is None:
        return []
    return [text] if isinstance(text, str) else list(text)
