"""Reading videos and pictures outside ComfyUI; `video_files.py` writes them. imageio's PyAV plug-in reads videos."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .file_tags import COMMENT, picture_tags

if TYPE_CHECKING:
    from PIL.Image import Image

# Filters of FFmpeg that make RGB of a frame by the matrix and range it is tagged with, as (name, arguments). Without
# these flags it takes a shortcut that cuts levels instead of rounding: a video is a level darker each time it is read.
_RGB_FILTERS = [("scale", "flags=bicubic+accurate_rnd+full_chroma_int"), ("format", "rgb24")]


def read_video(path: str | Path, *, max_frames: int | None = None) -> tuple[Tensor, float]:
    """Read a video file, all of it or its first `max_frames` frames.

    Returns: frames [1, 3, F, H, W], float32 in [0, 1], and frames per second.
    Raises: FileNotFoundError, or ValueError if the file is no readable video.
    """
    with _open_video(path) as file:
        fps = float(file.metadata()["fps"])
        pictures = islice(file.iter(filter_sequence=_RGB_FILTERS), max_frames)
        frames = [torch.from_numpy(picture).permute(2, 0, 1) for picture in pictures]  # [3, H, W]
    if not frames:
        raise ValueError(f"{path} holds no frame that can be read; give a complete video file such as an mp4.")
    return torch.stack(frames, dim=1)[None].float().div_(255), fps


def read_metadata(path: str | Path) -> dict[str, Any]:
    """The settings `write_video` stored in a video file, or in one of its PNG files; empty if it holds none.

    Raises: FileNotFoundError, or ValueError if the file is no readable video.
    """
    tags = picture_tags(_existing(path))
    if tags is None:
        with _open_video(path) as file:
            tags = {name.lower(): text for name, text in file.container_metadata.items()}  # WebM has capitals
    try:
        metadata = json.loads(tags.get(COMMENT, ""))
    except json.JSONDecodeError:  # a comment that is not ours
        return {}
    return metadata if isinstance(metadata, dict) else {}


def read_image(path: str | Path) -> Image:
    """Read a picture as RGB, upright by its EXIF orientation.

    Raises: FileNotFoundError, or ValueError if the file is no readable picture.
    """
    from PIL import Image, ImageOps

    path = _existing(path)
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # Pillow raises all of these
        raise ValueError(f"{path} cannot be read as a picture; give a PNG, JPEG or WebP file.") from error


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not os.path.isfile(path):
        found = "it is a folder" if os.path.isdir(path) else "there is no such file"
        raise FileNotFoundError(f"Cannot read {path}: {found}; check the path.")
    return path


def _need_imageio() -> None:
    """Raises: ImportError, in one sentence, if the packages for video files are missing."""
    try:
        import av  # noqa: F401
        import imageio.v3  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"Video files need the packages imageio and av, and {error.name} is missing; run: pip install imageio av"
        ) from error


@contextmanager
def _open_video(path: str | Path) -> Iterator[Any]:
    """A video file to read from. Raises: ValueError, in one sentence, for whatever is wrong with it."""
    path = _existing(path)
    _need_imageio()
    from av.error import FFmpegError
    from imageio.v3 import imopen

    try:
        with imopen(path, "r", plugin="pyav") as file:
            yield file
    except (OSError, FFmpegError) as error:
        raise ValueError(f"{path} cannot be read as a video; give a complete video file such as an mp4.") from error
