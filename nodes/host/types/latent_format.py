"""The latents of a MODEL: their scale, and their colours where previews look for them."""

from __future__ import annotations

import logging
from pathlib import Path

import comfy.latent_formats

from ....cogvideox_core.videos.preview_colours import OFFICIAL_RGB, LatentRGB, latent_rgb_of
from ....cogvideox_core.weights.errors import CheckpointError

logger = logging.getLogger("cogvideox")


class CogVideoXLatentFormat(comfy.latent_formats.LatentFormat):
    """16 channels, one scale: a LATENT holds z of the VAE, the model sees z times `scale_factor`.

    `latent_rgb_factors` and `latent_rgb_factors_bias` are the colours of what the model sees; previews of this pack, of
    ComfyUI and of other packs take them from here.
    """

    latent_channels = 16
    latent_dimensions = 3

    def __init__(self, scale_factor: float, rgb: LatentRGB = OFFICIAL_RGB) -> None:
        self.scale_factor = scale_factor
        scaled = rgb.scaled(scale_factor)
        self.latent_rgb_factors = [list(row) for row in scaled.factors]
        self.latent_rgb_factors_bias = list(scaled.bias)


def colours_of(path: str | Path) -> LatentRGB:
    """The colours in a model's folder, else those of the released VAE. A broken file is logged and does no harm."""
    try:
        return latent_rgb_of(path)
    except CheckpointError as error:
        logger.warning(f"{error}; until then previews have the colours of the released models")
        return OFFICIAL_RGB
