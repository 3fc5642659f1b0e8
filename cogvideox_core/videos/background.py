"""What transparent pictures are put on: one colour, white where none is chosen, as a page shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

WHITE = "white"
_WITH_ALPHA = ("RGBA", "LA", "PA", "La", "RGBa")


def parse_colour(text: str) -> tuple[int, int, int]:
    """Red, green and blue, 0 to 255, of a colour as CSS writes it: "white", "#ff8000", "rgb(255, 128, 0)".

    Raises: ValueError if it is none.
    """
    from PIL import ImageColor

    try:
        red, green, blue, *_ = ImageColor.getrgb(text)
    except (ValueError, AttributeError) as error:
        raise ValueError(f"background={text!r}; a colour is a name such as white, or #rrggbb") from error
    return red, green, blue


def opaque_image(image: Image, background: str = WHITE) -> Image:
    """A picture of any mode as RGB; what is transparent shows the background.

    Raises: ValueError if the background is no colour.
    """
    from PIL import Image as PIL

    colour = parse_colour(background)
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        canvas = PIL.new("RGBA", image.size, colour)
        return PIL.alpha_composite(canvas, image.convert("RGBA")).convert("RGB")
    return (_eight_bits(image) if image.mode.startswith("I") else image).convert("RGB")


def opaque_pixels(pixels: Tensor, background: str = WHITE) -> Tensor:
    """Pictures [..., 3, H, W] in [0, 1] of some with alpha, [..., 4, H, W]; those without pass through.

    Raises: ValueError if the background is no colour.
    """
    colour = torch.tensor(parse_colour(background), dtype=pixels.dtype, device=pixels.device)
    if pixels.shape[-3] != 4:
        return pixels
    behind = (colour / 255)[:, None, None]
    return behind + (pixels[..., :3, :, :] - behind) * pixels[..., 3:, :, :]


def _eight_bits(image: Image) -> Image:
    """A grey picture of 16 bits in 8, which Pillow would cut off at 255."""
    import numpy as np
    from PIL import Image as PIL

    values = np.asarray(image).clip(0, 65535)
    return PIL.fromarray((values / 257).round().astype(np.uint8))
