"""From a prompt to a video: text encoder, transformer, VAE and schedule tied together."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor

from ..models.config import PositionTable
from ..models.noise import Generator, draw_latents
from ..models.shapes import LatentSize, VideoSize, computed_frames, latent_size, size_advice
from ..models.transformer.attention import choose_attention
from ..models.transformer.model import CogVideoXTransformer3D
from ..models.vae.autoencoder import AutoencoderCausal3D
from ..models.vae.chunks import FRAMES_PER_CHUNK, LATENTS_PER_CHUNK, frame_chunks
from ..models.vae.memory_plan import Budget, Plan, make_plan
from ..models.vae.tiling import TilingChoice
from ..models.variants import SamplerName, Variant
from ..sampling.guidance import DynamicBy
from ..sampling.loop import denoise
from ..sampling.noise_schedule import NoiseSchedule
from ..sampling.predictor import Conditions, TransformerPredictor
from ..sampling.samplers import make_sampler
from ..videos.background import WHITE
from ..weights.dtypes import named_dtype
from .conditioning import (
    Fit,
    ImageScale,
    image_latent_factor,
    image_latents,
    image_pixels,
    lengthened,
    pad_leading,
    video_pixels,
)
from .dtype_choice import check_dtype
from .memory import fits_in_one, free_memory
from .offload import ComponentContexts, Offload, offload_components
from .request import Request

logger = logging.getLogger("cogvideox")


@dataclass(frozen=True)
class Progress:
    """Where a run stands: `step` of `total` of a stage is done.

    `latents` are the current ones after a sampling step, [B, C, T, h, w], model space.
    """

    stage: Literal["text", "sampling", "decoding"]
    step: int
    total: int
    latents: Tensor | None = None


Callback = Callable[[Progress], None]
OutputType = Literal["video", "latent"]


class PromptEncoder(Protocol):
    """Turns prompts into embeddings [B, L, D]."""

    def __call__(self, prompts: list[str]) -> Tensor:
        """Embeddings [B, L, D] of B prompts."""
        ...


class CogVideoXPipeline:
    """Makes videos with one model.

    Args:
        transformer, vae: the components, on their devices.
        text_encoder: None when only embeddings will be given.
        variant: the row whose schedule, scales and limits apply.
        attention: "auto", or a backend of `attention.BACKENDS`.
        offload: where to compute with components that are all in CPU memory: they go there one at a time, the text
            encoder and the transformer block by block, and both halves of guidance are computed in turn. None computes
            where the components are.
    Raises: ValueError or ImportError for a backend that is not installed, components that cannot be streamed, or a
        dtype that their device does not compute in.
    """

    def __init__(
        self,
        transformer: CogVideoXTransformer3D,
        vae: AutoencoderCausal3D,
        text_encoder: PromptEncoder | None,
        variant: Variant,
        *,
        attention: str = "auto",
        offload: Offload | None = None,
    ) -> None:
        self.transformer = transformer
        self.vae = vae
        self.text_encoder = text_encoder
        self.variant = variant
        self.schedule = NoiseSchedule(variant.schedule)
        self._offload = offload
        self._contexts = ComponentContexts()
        if offload:
            self._contexts = offload_components(transformer, vae, text_encoder, offload)
        check_dtype(self.dtype, named_dtype(variant.defaults.dtype), self.device)
        self.attention = choose_attention(attention, self.device, self.dtype)

    @property
    def dtype(self) -> torch.dtype:
        """What the transformer computes in; text embeddings and image latents are cast to it."""
        return self._offload.dtype if self._offload else next(self.transformer.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where it works."""
        return self._offload.device if self._offload else next(self.transformer.parameters()).device

    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] = "",
        image: Any = None,
        last_image: Any = None,
        video: Any = None,
        strength: float = 0.8,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 6.0,
        use_dynamic_cfg: bool = False,
        sampler: SamplerName = "ddim",
        generator: Generator = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        *,
        output_type: OutputType = "video",
        callback: Callback | None = None,
        dynamic_cfg_by: DynamicBy = "timestep",
        image_fit: Fit = "refuse",
        image_scale: ImageScale = "diffusers",
        sample_posterior: bool = True,
        zero_negative_prompt: bool = False,
        allow_any_size: bool = False,
        position_table: PositionTable = "trained",
        vae_tiling: TilingChoice = "auto",
        cache_budget: float = 0.0,
        teacache: float = 0.0,
        guidance_until: float = 1.0,
        background: str = WHITE,
    ) -> Tensor:
        """Make a video. `Request` explains every argument but these two:

        Args:
            output_type: "video", or "latent" for latents [B, 16, T, h, w], leading frames included.
            callback: called with a `Progress` after each unit of work; raise in it to interrupt.
        Returns: video [B, 3, F, H, W] in [0, 1], float32.
        Raises: ValueError for input that does not fit; FloatingPointError for latents that are not finite.
        """
        given = locals()
        request = Request(**{field.name: given[field.name] for field in fields(Request)})
        return self.generate(request, output_type=output_type, callback=callback)

    def check(self, request: Request) -> VideoSize:
        """The size of the video that this request makes.

        Raises: ValueError that says what came, what fits and what to do.
        """
        return request.check(self.transformer.config, self.variant)

    def generate(
        self, request: Request, *, output_type: OutputType = "video", callback: Callback | None = None
    ) -> Tensor:
        """The video of a request, [B, 3, F, H, W] in [0, 1], or its latents; arguments and errors as of a call."""
        if output_type not in get_args(OutputType):
            raise ValueError(f"output_type={output_type!r}; there are 'video' and 'latent'")
        if output_type == "latent":
            return self._latents(request, callback or _ignore)[0]
        return torch.cat(list(self.stream(request, callback=callback)), dim=2)

    def stream(self, request: Request, *, callback: Callback | None = None) -> Iterator[Tensor]:
        """As `generate`, but yields the video in chunks [B, 3, f, H, W] as they are decoded.

        Blended tiles are decoded one after the other over all frames, so their chunks come at the end.
        """
        latents, size = self._latents(request, callback or _ignore)
        left = self.check(request).num_frames
        for chunk in self._decode(latents, size, request, callback or _ignore):
            yield chunk[:, :, :left]  # of the last one the frames that were asked for
            left -= chunk.shape[2]

    @torch.no_grad()
    def _latents(self, request: Request, callback: Callback) -> tuple[Tensor, LatentSize]:
        """Clean latents of a request, and their size."""
        video_size = request.check(self.transformer.config, self.variant)
        if advice := size_advice(video_size, self.transformer.config, self.variant):
            logger.warning(advice)
        size = latent_size(video_size, self.transformer.config, self.variant)
        prompt_embeds, negative_embeds = self._encode_text(request, callback)
        image = self._encode_images(request, video_size, size)
        strength = 1.0 if request.video is None else request.strength
        steps = self.schedule.steps(request.num_inference_steps, strength)
        latents = self._first_latents(request, video_size, size, steps[0].timestep)

        def draw(like: Tensor) -> Tensor:
            return draw_latents(like.shape, request.generator, like.device, self.dtype).float()

        sampler = make_sampler(request.sampler, draw)
        with self._contexts.transformer():
            tokens = size.tokens(self.transformer.config) + prompt_embeds.shape[1]
            self.attention.probe(tokens, self.transformer.config.attention_head_dim, self.dtype, self.device)
            predictor = TransformerPredictor(
                self.transformer,
                steps,
                Conditions(prompt_embeds, negative_embeds, request.guidance, image, request.table),
                attention=self.attention,
                approximation=request.approximation,
                split=self._splits_guidance(request, tokens),
            )
            with predictor:
                latents = denoise(predictor, latents, steps, sampler, _step_callback(callback, len(steps)))
        return latents, size

    def _splits_guidance(self, request: Request, tokens: int) -> bool:
        """Whether the two halves of guidance go one after the other, for want of memory."""
        if self._offload is not None:
            return True
        batch = 2 * request.batch
        return not fits_in_one(self.transformer.config, tokens, batch, self.dtype, self.device)

    def _encode_text(self, request: Request, callback: Callback) -> tuple[Tensor, Tensor | None]:
        embeds, negative = request.prompt_embeds, request.negative_prompt_embeds
        wants_negative = request.guidance.active and negative is None and not request.zero_negative_prompt
        total = (embeds is None) + wants_negative
        with self._contexts.text() if total else nullcontext():
            if embeds is None:
                embeds = self._embed(request.prompts)
                callback(Progress("text", 1, total))
            if wants_negative:
                negative = self._embed(request.negative_prompts)
                callback(Progress("text", total, total))
        assert embeds is not None
        if negative is None and request.guidance.active:
            negative = torch.zeros_like(embeds)
        place = {"device": self.device, "dtype": self.dtype}
        return embeds.to(**place), None if negative is None else negative.to(**place)

    def _embed(self, prompts: list[str]) -> Tensor:
        if self.text_encoder is None:
            raise ValueError(
                "a prompt, but no text encoder is loaded; give prompt_embeds, or load the model with text_encoder=PATH"
            )
        embeds = self.text_encoder(prompts)
        width = self.transformer.config.text_embed_dim
        if embeds.shape[-1] != width:
            raise ValueError(
                f"the text encoder makes embeddings {embeds.shape[-1]} wide; {self.variant.name} takes {width}; load "
                "the text encoder that belongs to it"
            )
        return embeds

    def _encode_images(self, request: Request, video_size: VideoSize, size: LatentSize) -> Tensor | None:
        """Image latents [B, C, T, h, w] for the channels behind the noise."""
        if request.image is None:
            return None
        factor = image_latent_factor(self.variant.vae, request.image_scale)

        def encode(image: Any) -> Tensor:
            pixels = image_pixels(image, video_size, fit=request.image_fit, background=request.background)
            return (self._encode(pixels, request) * factor).to(self.device, self.dtype)

        first = encode(request.image)
        return image_latents(first, None if request.last_image is None else encode(request.last_image), size)

    def _first_latents(self, request: Request, video_size: VideoSize, size: LatentSize, timestep: int) -> Tensor:
        """Noise, or the given video with noise of `timestep` on it; float32."""
        if request.latents is not None:
            return request.latents.to(self.device, torch.float32)
        clean = None
        if request.video is not None:
            pixels = video_pixels(request.video, video_size, fit=request.image_fit, background=request.background)
            z = self._encode(lengthened(pixels, computed_frames(video_size.num_frames, self.variant.vae)), request)
            clean = pad_leading(z * self.variant.vae.scaling_factor, size.leading).to(self.device, torch.float32)
        shape = size.shape(request.batch, self.transformer.config.out_channels)
        noise = draw_latents(shape, request.generator, self.device, self.dtype).float()
        return noise if clean is None else self.schedule.add_noise(clean, noise, timestep)

    def _encode(self, pixels: Tensor, request: Request) -> Tensor:
        """z of clips [B, 3, F, H, W], one per prompt; each is encoded and drawn by itself, as in the reference."""
        with self._contexts.vae():
            weight = next(self.vae.parameters())
            _, _, frames, height, width = pixels.shape
            plan = self._plan("encode", request, VideoSize(height, width, frames), batch=1)
            posteriors = [
                self.vae.encode(clip[None], plan.tiling, like=weight, cache_device=plan.cache_device)
                for clip in pixels.expand(request.batch, -1, -1, -1, -1)
            ]
        if not request.sample_posterior:
            return torch.cat([posterior.mode() for posterior in posteriors])
        generators = request.generators
        return torch.cat([p.sample(generator) for p, generator in zip(posteriors, generators, strict=True)])

    @torch.no_grad()
    def _decode(self, latents: Tensor, size: LatentSize, request: Request, callback: Callback) -> Iterator[Tensor]:
        """The video of clean latents in chunks [B, 3, f, H, W], in [0, 1]."""
        with self._contexts.vae():
            weight = next(self.vae.parameters())
            z = (latents[:, :, size.leading :] / self.variant.vae.scaling_factor).to(weight.device, weight.dtype)
            total = len(frame_chunks(z.shape[2], LATENTS_PER_CHUNK))
            for index, chunk in enumerate(self._chunks(z, request)):
                callback(Progress("decoding", index + 1, total))
                yield (chunk.float() / 2 + 0.5).clamp(0, 1)

    def _chunks(self, z: Tensor, request: Request) -> Iterator[Tensor]:
        """Frames of z, as they are made or, of tiles, when all of them are there."""
        plan = self._plan("decode", request, self.vae.video_size(z.shape), batch=len(z))
        if plan.tiling is None:
            return self.vae.decode_stream(z, cache_device=plan.cache_device)
        video = self.vae.decode(z, plan.tiling, device=torch.device("cpu"))
        return (video[:, :, chunk] for chunk in frame_chunks(video.shape[2], FRAMES_PER_CHUNK))

    def _plan(self, task: Literal["encode", "decode"], request: Request, size: VideoSize, batch: int) -> Plan:
        weight = next(self.vae.parameters())
        free = free_memory(weight.device)
        free = None if free is None else free // batch
        budget = Budget(weight.dtype, weight.device, free)
        return make_plan(task, request.vae_tiling, self.vae.config, size, budget)


def _ignore(progress: Progress) -> None:
    """The callback of a caller who gave none."""


def _step_callback(callback: Callback, total: int) -> Callable[[int, Tensor, Tensor], None]:
    """What `denoise` calls after each step."""
    return lambda index, x0, latents: callback(Progress("sampling", index + 1, total, latents))
