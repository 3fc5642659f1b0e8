"""Videos, what they say about themselves, and pictures, read outside ComfyUI; `video_files.py` writes videos."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .background import WHITE, opaque_image, parse_colour
from .decoding import existing_file, open_video
from .file_tags import COMMENT, picture_tags
from .reading import read_clip

if TYPE_CHECKING:
    from PIL.Image import Image


def read_video(
    path: str | Path, *, max_frames: int | None = None, fps: float | None = None, background: str = WHITE
) -> tuple[Tensor, float]:
    """Read a video file, all of it or its first `max_frames` frames, upright.

    Args:
        fps: take the frames that are shown at 0, 1 / fps, 2 / fps, ... seconds; None takes every frame.
        background: the colour that transparent frames are put on.
    Returns: frames [1, 3, F, H, W], float32 in [0, 1], and frames per second.
    Raises: FileNotFoundError, or ValueError if the file is no readable video.
    """
    clip = read_clip(path, max_frames=max_frames, fps=fps, background=background)
    return clip.frames, clip.fps


def read_metadata(path: str | Path) -> dict[str, Any]:
    """The settings `write_video` stored in a video file, or in one of its PNG files; empty if it holds none.

    Raises: FileNotFoundError, or ValueError if the file is no readable video.
    """
    tags = picture_tags(existing_file(path))
    if tags is None:
        with open_video(path) as video:
            tags = {name.lower(): text for name, text in video.metadata.items()}  # WebM has capitals
    try:
        metadata = json.loads(tags.get(COMMENT, ""))
    except json.JSONDecodeError:  # a comment that is not ours
        return {}
    return metadata if isinstance(metadata, dict) else {}


def read_image(path: str | Path, *, background: str = WHITE) -> Image:
    """Read a picture as RGB, upright by its EXIF orientation, on the background where it is transparent.

    Raises: FileNotFoundError, or ValueError if the file is no readable picture, or the background no colour.
    """
    from PIL import Image, ImageOps

    path = existing_file(path)
    parse_colour(background)
    try:
        with Image.open(path) as image:
            return opaque_image(ImageOps.exif_transpose(image), background)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # Pillow raises all of these
        raise ValueError(f"{path} cannot be read as a picture; give a PNG, JPEG or WebP file.") from error
