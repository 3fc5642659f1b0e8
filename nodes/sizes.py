"""Width, height and length widgets, and what can be said about them before any model is loaded."""

from __future__ import annotations

from comfy_api.latest import io

MULTIPLE = 16  # pixels: 8 of the VAE times 2 of a patch
GROUP = 8  # frames: two latents


def size_inputs(*, width: int = 720, height: int = 480, length: int = 49) -> list[io.Input]:
    """The three widgets, in the order ComfyUI has them."""
    return [
        io.Int.Input(
            "width", default=width, min=MULTIPLE, max=4096, step=MULTIPLE, tooltip="Pixels: 720; 1360 for 1.5."
        ),
        io.Int.Input(
            "height", default=height, min=MULTIPLE, max=4096, step=MULTIPLE, tooltip="Pixels: 480; 768 for 1.5."
        ),
        io.Int.Input(
            "length",
            default=length,
            min=1,
            max=1025,
            step=GROUP,
            tooltip="Frames, 8n+1: 49 at 8 fps; 81 at 16 fps for 1.5.",
        ),
    ]


def size_fault(width: int, height: int, length: int) -> str | None:
    """A sentence on a size that fits no CogVideoX model; None if some model takes it."""
    for name, pixels in (("width", width), ("height", height)):
        if pixels % MULTIPLE:
            nearest = max(round(pixels / MULTIPLE), 1) * MULTIPLE
            return f"{name}={pixels}; CogVideoX takes multiples of {MULTIPLE}; use {nearest}"
    if (length - 1) % GROUP:
        return f"length={length}; CogVideoX takes {GROUP}n+1 frames; use {round((length - 1) / GROUP) * GROUP + 1}"
    return None
