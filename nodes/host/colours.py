"""The colours of latents, where ComfyUI's previews look for them: on latent formats, for what the model sees."""

from __future__ import annotations

import logging
from pathlib import Path

import comfy.latent_formats

from ...cogvideox_core.videos.preview_colours import OFFICIAL_RGB, LatentRGB, latent_rgb_of
from ...cogvideox_core.weights.errors import CheckpointError

logger = logging.getLogger("cogvideox")

_HOST_FORMATS = ("CogVideoX", "CogVideoX1_5")  # of ComfyUI's own CogVideoX, which has no colours


def comfy_colours(rgb: LatentRGB, scale_factor: float) -> tuple[list[list[float]], list[float]]:
    """`latent_rgb_factors` and `latent_rgb_factors_bias` of a latent format with this `scale_factor`."""
    scaled = rgb.scaled(scale_factor)
    return [list(row) for row in scaled.factors], list(scaled.bias)


def colours_of(path: str | Path) -> LatentRGB:
    """The colours that lie beside a model, else the released VAE's; a broken file is told and does no harm."""
    try:
        return latent_rgb_of(path)
    except CheckpointError as error:
        logger.warning(f"{error}; until then previews have the colours of the released models")
        return OFFICIAL_RGB


def teach_colours() -> None:
    """Give ComfyUI's own CogVideoX formats colours, where they have none, so that its previews show something."""
    formats = [getattr(comfy.latent_formats, name, None) for name in _HOST_FORMATS]
    for latent_format in [known for known in formats if known is not None and known.latent_rgb_factors is None]:
        factors, bias = comfy_colours(OFFICIAL_RGB, latent_format().scale_factor)
        latent_format.latent_rgb_factors, latent_format.latent_rgb_factors_bias = factors, bias
