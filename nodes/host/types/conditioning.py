"""CONDITIONING and LATENT: what a model gets besides noise and prompt, and the empty latent to start from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.model_management
import node_helpers
import torch
from torch import Tensor

from ....cogvideox_core.models.config import PositionTable
from ....cogvideox_core.models.shapes import (
    LatentSize,
    VideoSize,
    check_size,
    computed_frames,
    latent_size,
    nearest_computed,
)
from ....cogvideox_core.models.variants import Conditioning
from ....cogvideox_core.pipeline.conditioning import (
    Fit,
    control_latents,
    image_latents,
    image_pixels,
    inpaint_latents,
    lengthened,
    mask_pixels,
    masked_video,
    quadmask_latents,
    quadmask_videos,
    video_pixels,
)
from ....cogvideox_core.videos.background import WHITE, opaque_pixels
from .lengths import with_length
from .model import POSITION_TABLE, cogvideox_model
from .vae import CogVideoXVAE, cogvideox_vae


@dataclass(frozen=True)
class Target:
    """The video that is to be made, and what happens to frames of another aspect ratio and to transparent ones."""

    size: VideoSize
    fit: Fit
    background: str = WHITE


@dataclass(frozen=True)
class LatentCondition:
    """Latents for a model's channels behind the noise.

    Attributes:
        latents: [1, C, T, h, w], z of the VAE (masks as they are), without leading frames.
        kind: what they are.
        channels: C of a video's latent.
        num_frames: of the video that was asked for.
        scale: of image latents of CogVideoX1.5; "scaled" for everything else.
        position_table: what becomes of a learned one.
    """

    latents: Tensor
    kind: Conditioning
    channels: int
    num_frames: int
    scale: str = "scaled"
    position_table: PositionTable = "trained"

    def on(self, conditioning: list) -> list:
        """A CONDITIONING with these latents."""
        values = {
            "concat_latent_image": self.latents,
            "cogvideox_conditioning": self.kind,
            "cogvideox_image_scale": self.scale,
            POSITION_TABLE: self.position_table,
        }
        return node_helpers.conditioning_set_values(conditioning, values)

    def empty_latent(self) -> dict[str, Any]:
        """A LATENT [1, C, T, h, w] of zeros, of the same size."""
        return with_length(torch.zeros_like(self.latents[:, : self.channels]), self.num_frames)


def empty_latent(model: Any, size: VideoSize, batch_size: int, allow_any_size: bool) -> dict[str, Any]:
    """A LATENT [B, C, T, h, w] of zeros for a MODEL. Raises: ValueError if the model cannot make that size."""
    rules = cogvideox_model(model)
    check_size(size, rules.config, rules.variant, allow_any_size=allow_any_size)
    clip = latent_size(size, rules.config, rules.variant).without_leading()
    shape = clip.shape(batch_size, rules.config.out_channels)
    return with_length(torch.zeros(shape, device=comfy.model_management.intermediate_device()), size.num_frames)


def image_condition(vae: Any, start: Tensor, end: Tensor | None, target: Target, scale: str) -> LatentCondition:
    """For a model that continues images: the first frame, and perhaps the last, [1, H, W, C] in 0 to 1.

    Raises: ValueError if the VAE is not ours, an image does not fit, or the last one would be cut off.
    """
    vae, length = cogvideox_vae(vae), target.size.num_frames
    if end is not None:
        _check_end(vae, length)
    first = _encode_image(vae, start, target)
    last = None if end is None else _encode_image(vae, end, target)
    latents = image_latents(first, last, _clip_size(vae, target.size))
    return LatentCondition(latents, "image", vae.latent_channels, length, scale)


def control_condition(vae: Any, video: Tensor, target: Target) -> LatentCondition:
    """For a control model: the video to follow [F, H, W, C] in 0 to 1, or one frame of it for all.

    Raises: ValueError if the VAE is not ours, or the frames do not fit.
    """
    vae = cogvideox_vae(vae)
    pixels = _pixels(vae, video, target, "control_video", single=True)
    z = control_latents(_encode_video(vae, pixels), _clip_size(vae, target.size))
    return LatentCondition(z, "control", vae.latent_channels, target.size.num_frames)


def mask_condition(model: Any, vae: Any, video: Tensor, mask: Tensor, target: Target) -> LatentCondition:
    """For an inpainting model: a video [F, H, W, C] and its mask [F or 1, H, W], 0 to 1, white where it is to be made.

    Raises: ValueError if the model takes no mask, the VAE is not ours, or the frames do not fit.
    """
    variant = cogvideox_model(model).variant
    if variant.conditioning not in ("inpaint", "quadmask"):
        raise ValueError(f"{variant.name} takes no mask; give a CogVideoX-Fun InP model or VOID")
    vae = cogvideox_vae(vae)
    pixels = _pixels(vae, video, target, "video")
    hidden = lengthened(mask_pixels(mask, target.size, fit=target.fit), pixels.shape[2])
    if variant.conditioning == "inpaint":
        return _inpaint_condition(vae, pixels, hidden, target.size)
    known, masked = (_encode_video(vae, shown) for shown in quadmask_videos(pixels, hidden))
    z = quadmask_latents(known, masked, _clip_size(vae, target.size))
    return LatentCondition(z, "quadmask", vae.latent_channels, target.size.num_frames)


def known_frames_condition(vae: Any, start: Tensor, end: Tensor | None, target: Target) -> LatentCondition:
    """For an inpainting model: a video of which all frames but the given ones [1, H, W, C] are masked.

    Raises: ValueError if the VAE is not ours, or an image does not fit.
    """
    vae, size = cogvideox_vae(vae), target.size
    computed = _computed(vae, size)
    pixels = torch.zeros(1, 3, computed, size.height, size.width)
    hidden = torch.ones(1, 1, computed, size.height, size.width)
    for frames, image in ((slice(0, 1), start), (slice(size.num_frames - 1, computed), end)):
        if image is not None:
            pixels[:, :, frames] = _image_pixels(image, target)
            hidden[:, :, frames] = 0.0
    return _inpaint_condition(vae, pixels, hidden, size)


def takes_known_frames(model: Any) -> bool:
    """Whether a MODEL gets images as the known frames of a masked video. Raises: ValueError if it is not ours."""
    return cogvideox_model(model).variant.conditioning == "inpaint"


def _inpaint_condition(vae: CogVideoXVAE, pixels: Tensor, hidden: Tensor, size: VideoSize) -> LatentCondition:
    """Pixels [1, 3, F, H, W] in -1 to 1, hidden [1, 1, F, H, W]."""
    z = inpaint_latents(hidden, _encode_video(vae, masked_video(pixels, hidden)), _clip_size(vae, size))
    return LatentCondition(z, "inpaint", vae.latent_channels, size.num_frames)


def _image_pixels(image: Tensor, target: Target) -> Tensor:
    """[1, 3, 1, H, W] in -1 to 1 of an IMAGE [1, H, W, C] in 0 to 1."""
    return image_pixels(opaque_pixels(image.movedim(-1, 1), target.background), target.size, fit=target.fit)


def _encode_image(vae: CogVideoXVAE, image: Tensor, target: Target) -> Tensor:
    """z [1, 16, 1, h, w] of an IMAGE [1, H, W, C] in 0 to 1."""
    return _encode_video(vae, _image_pixels(image, target))


def _pixels(vae: CogVideoXVAE, video: Tensor, target: Target, name: str, *, single: bool = False) -> Tensor:
    """[1, 3, F, H, W] in -1 to 1, all frames that are computed, of an IMAGE [F, H, W, C] in 0 to 1.

    Args: single: allow one frame for all, [1, 3, 1, H, W].
    """
    length = target.size.num_frames
    if len(video) < length and not (single and len(video) == 1):
        raise ValueError(f"{name} has {len(video)} frames for length={length}; give as many, or a smaller length")
    frames = opaque_pixels(video[:length].movedim(-1, 1), target.background)
    pixels = video_pixels(frames, target.size, fit=target.fit)
    return pixels if len(video) == 1 else lengthened(pixels, _computed(vae, target.size))


def _encode_video(vae: CogVideoXVAE, pixels: Tensor) -> Tensor:
    """z [1, 16, T, h, w], the mean, of [1, 3, F, H, W] in -1 to 1."""
    return vae.encode((pixels[0].movedim(0, -1) + 1.0) / 2.0)


def _clip_size(vae: CogVideoXVAE, size: VideoSize) -> LatentSize:
    """Latents of a clip without leading frames, which belong to the sampling."""
    ratio, frames = vae.first_stage_model.config.spatial_compression_ratio, _computed(vae, size)
    return LatentSize(vae.downscale_ratio[0](frames), size.height // ratio, size.width // ratio, leading=0)


def _computed(vae: CogVideoXVAE, size: VideoSize) -> int:
    """Frames that are computed for a video of this size."""
    return computed_frames(size.num_frames, vae.first_stage_model.config)


def _check_end(vae: CogVideoXVAE, length: int) -> None:
    """Refuse a length whose last computed frame, which is the end image, would be cut off."""
    if length == 1:
        raise ValueError("length=1 with an end image; a video from start to end takes at least 9 frames")
    nearest = nearest_computed(length, vae.first_stage_model.config)
    if length not in nearest:
        raise ValueError(
            f"length={length} with an end image, which is the last of the {nearest[-1]} frames that are computed and "
            f"would be cut off; use {' or '.join(map(str, nearest))}"
        )
