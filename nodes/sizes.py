"""Width, height and length widgets, and what can be said about them before any model is loaded."""

from __future__ import annotations

from comfy_api.latest import io

from ..cogvideox_core.models.shapes import LARGEST_SIDE, VideoSize, size_steps
from ..cogvideox_core.models.variants import VARIANTS
from ..cogvideox_core.pipeline.conditioning import Fit

((MULTIPLE, _),) = {size_steps(row.transformer, row) for row in VARIANTS.values()}  # the same for all models
LONGEST = 1025


def size_inputs(*, width: int = 720, height: int = 480, length: int = 49) -> list[io.Input]:
    """The three widgets, in the order ComfyUI has them."""
    return [
        io.Int.Input(
            "width",
            default=width,
            min=MULTIPLE,
            max=LARGEST_SIDE,
            step=MULTIPLE,
            tooltip="Pixels: 720; 1360 for 1.5; 96 for the demo models.",
        ),
        io.Int.Input(
            "height",
            default=height,
            min=MULTIPLE,
            max=LARGEST_SIDE,
            step=MULTIPLE,
            tooltip="Pixels: 480; 768 for 1.5; 96 for the demo models.",
        ),
        io.Int.Input(
            "length",
            default=length,
            min=1,
            max=LONGEST,
            tooltip="Frames: 49 at 8 fps; 81 at 16 fps for 1.5; 17 for the demo models. For a number that is no 8n+1, "
            "the next 8n+1 are computed and the rest is cut.",
        ),
    ]


def fit_input(default: Fit) -> io.Input:
    """What happens to frames of another shape."""
    return io.Combo.Input(
        "image_fit",
        options=["refuse", "crop", "stretch"],
        default=default,
        optional=True,
        tooltip="Frames of another aspect ratio than width and height: stop with an error, keep their middle, or "
        "distort them.",
    )


def size_fault(width: int | None, height: int | None, length: int | None) -> str | None:
    """A sentence on a size that fits no CogVideoX model; None if some model takes it.

    ComfyUI hands over None for what another node computes; that is checked when it is known.
    """
    for name, pixels in (("width", width), ("height", height)):
        if pixels is not None and not (MULTIPLE <= pixels <= LARGEST_SIDE and pixels % MULTIPLE == 0):
            nearest = min(max(round(pixels / MULTIPLE), 1) * MULTIPLE, LARGEST_SIDE)
            return f"{name}={pixels}; CogVideoX takes multiples of {MULTIPLE} up to {LARGEST_SIDE}; use {nearest}"
    if length is not None and not 1 <= length <= LONGEST:
        return f"length={length}; CogVideoX takes 1 to {LONGEST} frames; use {min(max(length, 1), LONGEST)}"
    return None


def checked_size(width: int, height: int, length: int) -> VideoSize:
    """The size these widgets, or what is linked to them, say. Raises: ValueError if it fits no CogVideoX model."""
    if fault := size_fault(width, height, length):
        raise ValueError(fault)
    return VideoSize(height, width, length)
