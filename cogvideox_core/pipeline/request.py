"""One run as the user asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..models.config import PositionTable, TransformerConfig
from ..models.noise import Generator
from ..models.shapes import VideoSize, default_size
from ..models.vae.tiling import TilingChoice
from ..models.variants import SamplerName, Variant
from ..sampling.approximation import Approximation
from ..sampling.guidance import DynamicBy, Guidance
from ..videos.background import WHITE
from .conditioning import Fit, ImageScale, frame_count
from .request_checks import check_request


@dataclass(frozen=True, eq=False)
class Request:
    """What to make. Names and defaults are those of diffusers' CogVideoX pipelines where the meaning is the same.

    Attributes:
        prompt, negative_prompt: one or a batch; or `prompt_embeds`, `negative_prompt_embeds` [B, L, D] instead.
        image, last_image: first and last frame, for an image-to-video model; PIL images or tensors in [0, 1].
        video, strength: a video to start from, and how much of it is replaced: above 0 to 1.
        height, width, num_frames: pixels and frames; None for what the model was trained at (or the video's frames).
            Of frames that are no 8n+1 the next 8n+1 are computed, and cut to what was asked for.
        num_inference_steps: denoising steps of a whole run, 1 to 1000.
        sampler: "ddim" or "dpm".
        guidance_scale: 1 or less runs without guidance.
        use_dynamic_cfg: vary the guidance scale by the published formula.
        dynamic_cfg_by: what goes into that formula: "timestep" as published, or "step", the smooth reading.
        generator: a `torch.Generator` or one per video; draws in diffusers' order.
        latents: noise [B, 16, T, h, w] to start from instead of drawing it.
        image_fit: pictures of another aspect ratio: "refuse", "stretch" or "crop".
        background: the colour behind what is transparent in PIL images: a name such as "white", or "#rrggbb".
        image_scale: scale of the image latents of 1.5: "diffusers", "sat" or "scaled".
        sample_posterior: draw image and video latents from the VAE's posterior, as the reference; False takes its mean.
        zero_negative_prompt: zeros in place of the encoded negative prompt, as SAT does.
        allow_any_size: allow more frames than the model was trained for, and sizes that a learned position table is not
            for; the log warns.
        position_table: "trained", "interpolated" or "omitted": what becomes of a learned table (5B-I2V) at other sizes.
            With `allow_any_size` it is interpolated where it must be.
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
    position_table: PositionTable = "trained"
    vae_tiling: TilingChoice = "auto"
    cache_budget: float = 0.0
    teacache: float = 0.0
    guidance_until: float = 1.0
    background: str = WHITE

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

    @property
    def table(self) -> PositionTable:
        """What becomes of a learned position table; at its own size an interpolated one is as it was trained."""
        interpolates = self.allow_any_size and self.position_table == "trained"
        return "interpolated" if interpolates else self.position_table

    def check(self, config: TransformerConfig, variant: Variant) -> VideoSize:
        """The size of the video, if this model can make it.

        Raises: ValueError that says what came, what fits and what to do.
        """
        return check_request(self, config, variant)


def _as_list(text: str | Sequence[str] | None) -> list[str]:
    if text is None:
        return []
    return [text] if isinstance(text, str) else list(text)
