"""LATENT of any length: whole groups of frames are computed, and the LATENT remembers how many of them were asked for.

Samplers and most other nodes hand on what a LATENT holds beside its samples. Nodes that cut or join latents hand it on
too, and then it is no longer true, so it counts only where it is one of the lengths that the samples were computed for.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_NUM_FRAMES = "cogvideox_num_frames"
_GROUP = 8  # frames that are computed together; a test holds it to the core's


def with_length(samples: Tensor, num_frames: int) -> dict[str, Any]:
    """A LATENT of samples [B, C, T, h, w] for a video of so many frames."""
    return {"samples": samples, _NUM_FRAMES: num_frames}


def lengthened(frames: Tensor, num_frames: int) -> Tensor:
    """An IMAGE [F, H, W, C] with its last frame repeated until there are so many."""
    return torch.cat([frames, frames[-1:].expand(num_frames - len(frames), -1, -1, -1)])


def asked_frames(latent: dict[str, Any], computed: int) -> int:
    """How many of the computed frames of a LATENT were asked for; all of them where it does not say, or no longer."""
    asked = latent.get(_NUM_FRAMES, computed)
    return asked if computed - _GROUP < asked <= computed else computed
