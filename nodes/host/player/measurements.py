"""What the player is sent about a clip: its size, its checks, and the reference it is compared with."""

from __future__ import annotations

import uuid
from fractions import Fraction
from typing import Any

from comfy_api.latest import ui
from torch import Tensor

from ....cogvideox_core.models.shapes import VideoSize
from ....cogvideox_core.pipeline.conditioning import video_pixels
from ....cogvideox_core.videos.checks import check
from .video_file import save_reference


def measure(images: Tensor, reference: Tensor | None, rate: Fraction) -> tuple[dict[str, Any], list[ui.SavedResult]]:
    """Values for the player's widget, and the files that were saved for it.

    Args: images [F, H, W, C] and reference [R, h, w, C], in 0 to 1; the reference is cropped to the same aspect ratio.
    """
    frames, height, width = images.shape[:3]
    about = {"id": uuid.uuid4().hex, "fps": float(rate), "frames": frames, "width": width, "height": height}
    if reference is None:
        return {**about, "checks": check(images), "reference": None}, []
    size = VideoSize(height, width, len(reference))
    pixels = video_pixels(reference[..., :3].movedim(-1, 1), size, fit="crop")  # [1, 3, R, H, W] in -1 to 1
    fitted = pixels[0].movedim(0, -1) / 2 + 0.5
    checks = check(images, fitted)
    file = save_reference(fitted, rate)
    return {**about, "checks": checks, "reference": {**file, "frames": len(fitted)}}, [file]
