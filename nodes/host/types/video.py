"""VIDEO: its frames as an IMAGE of the size, number and frame rate that a model takes.

A file is read by the core, which keeps only what is asked for: ComfyUI would first decode all of it, in its own size.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from typing import Any

import torch
from comfy_api.latest import InputImpl
from torch import Tensor

from ....cogvideox_core.models.config import VAEConfig
from ....cogvideox_core.models.shapes import VideoSize, longest
from ....cogvideox_core.models.variants import VARIANTS, Variant
from ....cogvideox_core.pipeline.conditioning import Fit, fit_frame
from ....cogvideox_core.videos.background import opaque_pixels
from ....cogvideox_core.videos.frame_times import EVERY_FRAME, MODELS_RATE, Rate, Timed, at_rate, frames_per_second
from ....cogvideox_core.videos.reading import Clip, Part, read_clip

logger = logging.getLogger("cogvideox")


@dataclass(frozen=True)
class Wanted:
    """What is taken of a video.

    Attributes:
        rate: which frames.
        width, height: pixels; 0 for the video's own.
        length: frames; 0 for all there are, as far as the model takes them.
        fit: for frames of another aspect ratio.
    """

    rate: Rate = MODELS_RATE
    width: int = 0
    height: int = 0
    length: int = 0
    fit: Fit = "crop"

    def fitted(self, frame: Tensor) -> Tensor:
        """A frame [3, H, W] in [0, 1] in the size that is wanted."""
        size = VideoSize(self.height or frame.shape[1], self.width or frame.shape[2], 1)
        return fit_frame(frame, size, fit=self.fit)


def video_frames(video: Any, wanted: Wanted, variant: Variant) -> Tensor:
    """IMAGE [F, H, W, 3] in 0 to 1 of a VIDEO, for a model of this variant.

    Raises: ValueError if the video cannot be read, or has fewer frames than are wanted.
    """
    fps = frames_per_second(wanted.rate, variant.defaults.fps)
    most = wanted.length or longest(variant.transformer, variant)
    clip = (_of_file if isinstance(video, InputImpl.VideoFromFile) else _of_components)(video, fps, most, wanted)
    there = clip.frames.shape[2]
    if there < wanted.length:
        every = "" if wanted.rate == EVERY_FRAME else f", or video_fps to {EVERY_FRAME!r}"
        raise ValueError(f"the video has {clip} for length={wanted.length}; set length to at most {there}{every}")
    logger.info("VIDEO for %s: %s", variant.name, clip)
    return clip.frames[0].movedim(0, -1)


def image_frames(images: Tensor, wanted: Wanted) -> Tensor:
    """IMAGE [F, H, W, 3] of the beginning of an IMAGE [N, H, W, 3 or 4], both in 0 to 1.

    Raises: ValueError if it has fewer frames than are wanted.
    """
    if len(images) < wanted.length:
        raise ValueError(f"{len(images)} frames for length={wanted.length}; set length to 0 or to what there is")
    frames = opaque_pixels(images[: wanted.length or len(images)].movedim(-1, 1))
    if wanted.width or wanted.height:
        frames = torch.stack([wanted.fitted(frame) for frame in frames])
    return frames.movedim(1, -1)


def variant_of_vae(config: VAEConfig) -> Variant:
    """The model that a VAE is of, as far as its file says: most are shared, and are taken for that of 5B."""
    scaling = (config.scaling_factor, config.invert_scale_latents)
    rows = (row for row in VARIANTS.values() if (row.vae.scaling_factor, row.vae.invert_scale_latents) == scaling)
    return next(rows, VARIANTS["CogVideoX-5B"])


def _of_file(video: Any, fps: float | None, most: int, wanted: Wanted) -> Clip:
    start, seconds = video.get_active_trim_window()
    part = Part(start, seconds or None)
    return read_clip(video.get_stream_source(), fps=fps, max_frames=most, part=part, prepare=wanted.fitted)


def _of_components(video: Any, fps: float | None, most: int, wanted: Wanted) -> Clip:
    """Of a VIDEO that is in memory: frames at equal distances."""
    parts = video.get_components()
    rate = Fraction(parts.frame_rate)
    moments = _moments(parts, rate)
    chosen = list(islice(moments if fps is None else at_rate(moments, fps), most))
    if not chosen:
        raise ValueError("the video has no frames; give at least one")
    frames = torch.stack([wanted.fitted(moment.shown) for moment in chosen], dim=1)[None]
    ends = tuple(float(moment.end) for moment in chosen)
    return Clip(frames, float(fps or rate), ends, float(len(parts.images) / rate))


def _moments(parts: Any, rate: Fraction) -> Iterator[Timed[Tensor]]:
    """Frames [3, H, W] of VideoComponents."""
    for number, image in enumerate(parts.images):
        if parts.alpha is not None:
            image = torch.cat([image[..., :3], parts.alpha[number].reshape(*image.shape[:2], 1)], dim=-1)
        yield Timed(number / rate, (number + 1) / rate, opaque_pixels(image.movedim(-1, 0)))
