"""LATENT of any length: whole groups of frames are computed, and the LATENT remembers how many of them were asked for.

Samplers and most other nodes hand on what a LATENT holds beside its samples. Nodes that cut or join latents hand it on
too, and then it is no longer true, so it counts only where it is one of the lengths that the samples were computed for.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ....cogvideox_core.models.config import VAEConfig
from ....cogvideox_core.models.shapes import computed_frames
from ....cogvideox_core.pipeline.conditioning import lengthened

_NUM_FRAMES = "cogvideox_num_frames"


def with_length(samples: Tensor, num_frames: int) -> dict[str, Any]:
    """A LATENT of samples [B, C, T, h, w] for a video of so many frames."""
    return {"samples": samples, _NUM_FRAMES: num_frames}


def asked_frames(latent: dict[str, Any], computed: int, vae: VAEConfig) -> int:
    """How many of the computed frames of a LATENT were asked for; all of them where it does not say, or no longer."""
    asked = latent.get(_NUM_FRAMES, computed)
    return asked if computed_frames(asked, vae) == computed else computed


def computed_image(image: Tensor, vae: VAEConfig) -> Tensor:
    """An IMAGE [F, H, W, C] with its last frame repeated up to the frames that are computed."""
    video = image.movedim(-1, 0)[None]  # [1, C, F, H, W]
    return lengthened(video, computed_frames(len(image), vae))[0].movedim(0, -1)
