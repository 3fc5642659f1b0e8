"""Video files outside ComfyUI: mp4 out, videos and pictures in.

A video is written frame by frame as the VAE decodes it, to a temporary file in the same folder that is renamed when it
is complete: a failure leaves nothing behind. PyAV writes, since imageio has no public way to set the encoder's
quality and colour tags; imageio's PyAV plug-in reads. Both are imported where they are used.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .background import WHITE, opaque_image, parse_colour
from .decoding import existing_file, need_av, open_video
from .reading import read_clip

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

# crf is x264's scale of quality: 0 is lossless, 17 counts as visually lossless, 23 is its default. Its macroblock tree
# makes different bytes each time; without it the same video always makes the same file, a few per cent larger.
_ENCODER = {"crf": "17", "mbtree": "0"}
# The RGB conversion is BT.601's; where the file does not say so, players take a large video for BT.709.
_COLOUR = {"colorspace": "smpte170m", "color_primaries": "smpte170m", "color_trc": "smpte170m", "color_range": "tv"}
_PIXELS = "yuv420p"
_METADATA_TAG = "comment"  # one of the few tags every mp4 reader shows
_LARGEST_DENOMINATOR = 65535  # of a frame rate as a fraction: 30000/1001 and the like
_PROBE_BYTES = 1 << 18
_REASONS = {
    errno.ENOSPC: "there is no space left on the disk; free some, or name a file on another disk",
    errno.EDQUOT: "your quota on this disk is used up; free some, or name a file on another disk",
    errno.EFBIG: "the file would be larger than this system allows; name a file on another disk",
    errno.EACCES: "there is no permission to write in its folder; name a file in another one",
    errno.EPERM: "there is no permission to write in its folder; name a file in another one",
    errno.EROFS: "its folder can only be read; name a file in another one",
    errno.ENAMETOOLONG: "the name is too long; take a shorter one",
}


def write_video(
    path: str | Path, frames: Tensor | Iterable[Tensor], fps: float, metadata: dict[str, Any] | None = None
) -> Path:
    """Write an mp4 (H.264, yuv420p, high quality) that holds `metadata` as JSON.

    Args:
        path: must end in .mp4; an existing file is replaced once the new one is complete.
        frames: [1, 3, F, H, W] in [0, 1], or chunks of it along F. Chunks are asked for one at a time.
        fps: frames per second.
        metadata: anything JSON can hold; `read_metadata` gives it back.
    Returns: path.
    Raises:
        ValueError if the name, the rate or the size does not fit an mp4, or there is no frame.
        OSError if the file cannot be written. Whatever `frames` raises passes through. No file is left then.
    """
    path = check_writable(path)
    check_fps(fps)
    tag = json.dumps(metadata or {}, ensure_ascii=False)
    partial = _hidden_name(path, "part.mp4")
    try:
        _encode(partial, path, frames, fps, tag)
        with _write_errors(path):
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def check_writable(path: str | Path) -> Path:
    """Check before a long run that an mp4 can be written to `path`.

    Raises:
        ValueError for another extension; OSError if the folder is missing, not writable, or full;
        ImportError if a package that writing needs is missing.
    """
    path = Path(path)
    if os.path.isdir(path):
        raise IsADirectoryError(f"Cannot write {path}: it is a folder; name a file.")
    if path.suffix.lower() != ".mp4":
        raise ValueError(f"Cannot write {path}: videos are written as .mp4 only; use {path.with_suffix('.mp4')}.")
    if not os.path.isdir(path.parent):
        raise FileNotFoundError(
            f"Cannot write {path}: there is no folder {path.parent}; make it first, or name another file."
        )
    need_av()
    probe = _hidden_name(path, "probe.mp4")
    with _write_errors(path):
        with suppress(FileNotFoundError):
            path.lstat()  # knows names that are too long
        try:
            probe.write_bytes(bytes(_PROBE_BYTES))
        finally:
            probe.unlink(missing_ok=True)
    return path


def check_fps(fps: float) -> None:
    """Raises: ValueError for a frame rate no video has."""
    if not 0 < fps <= 1000:
        raise ValueError(f"fps={fps:g}; a video has more than 0 and at most 1000 frames per second; use 8 or 16.")


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
    """The settings `write_video` stored in a video file; empty if it holds none.

    Raises: FileNotFoundError, or ValueError if the file is no readable video.
    """
    with open_video(path) as video:
        tag = video.metadata.get(_METADATA_TAG, "")
    try:
        metadata = json.loads(tag)
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


def _encode(partial: Path, goal: Path, frames: Tensor | Iterable[Tensor], fps: float, tag: str) -> None:
    """Write all frames to `partial`. Errors of `frames` pass through; errors of the file name `goal`."""
    images = _images(frames)
    first = next(images, None)
    if first is None:
        raise ValueError(f"There is no frame to write to {goal}; give [1, 3, F, H, W] with F of 1 or more.")
    with _writer(partial, goal) as container:
        with _write_errors(goal):
            container.metadata[_METADATA_TAG] = tag
            stream = _add_stream(container, first.shape[0], first.shape[1], fps)
        for number, image in enumerate(chain([first], images)):
            with _write_errors(goal):
                container.mux(stream.encode(_frame(image, number, stream.codec_context.time_base)))
        with _write_errors(goal):
            container.mux(stream.encode(None))  # what the encoder holds back


def _add_stream(container: Any, height: int, width: int, fps: float) -> Any:
    """The H.264 stream of a new mp4, with our quality and colour tags."""
    rate = Fraction(fps).limit_denominator(_LARGEST_DENOMINATOR)
    stream = container.add_stream("libx264", rate=rate)
    stream.codec_context.time_base = 1 / rate  # so that a frame's time is its number
    stream.height, stream.width, stream.pix_fmt = height, width, _PIXELS
    stream.codec_context.options = _ENCODER | _COLOUR
    return stream


def _frame(image: np.ndarray, number: int, time_base: Fraction) -> Any:
    """Pixels [H, W, 3] as a frame for the encoder, which converts them to yuv420p."""
    from av import VideoFrame

    frame = VideoFrame.from_ndarray(image, format="rgb24")
    frame.pts, frame.time_base = number, time_base
    return frame


def _images(frames: Tensor | Iterable[Tensor]) -> Iterator[np.ndarray]:
    """The frames of chunks [1, 3, F, H, W], one by one for the encoder: [H, W, 3] in 8 bits, all of one even size."""
    size = None
    for chunk in [frames] if isinstance(frames, Tensor) else frames:
        if chunk.ndim != 5 or chunk.shape[0] != 1 or chunk.shape[1] != 3:
            raise ValueError(f"Frames of shape {list(chunk.shape)}; a video file takes [1, 3, F, H, W], one video.")
        height, width = chunk.shape[3:]
        if height % 2 or width % 2 or not height or not width:
            even = f"{width + width % 2 or 2}x{height + height % 2 or 2}"
            raise ValueError(f"Frames of {width}x{height} pixels; an mp4 takes even sizes; use {even}.")
        size = size or (height, width)
        if size != (height, width):
            raise ValueError(f"Frames of {width}x{height} follow frames of {size[1]}x{size[0]}; use one size.")
        for frame in chunk[0].unbind(1):  # [3, H, W]
            pixels = frame.detach().float().clamp(0, 1).mul(255).round().to(torch.uint8)
            yield pixels.permute(1, 2, 0).contiguous().cpu().numpy()


def _hidden_name(path: Path, ending: str) -> Path:
    """The path of a hidden file that does not exist yet, in the folder of `path`."""
    return path.with_name(f".{path.stem[:40]}-{secrets.token_hex(4)}.{ending}")


@contextmanager
def _writer(partial: Path, goal: Path) -> Iterator[Any]:
    """An mp4 to write to. It is closed in any case; what is buffered is written then, which may fail too."""
    import av
    from av.error import FFmpegError

    with _write_errors(goal):
        container = av.open(str(partial), "w", options={"movflags": "+faststart"})
    try:
        yield container
    except BaseException:  # Ctrl-C too: close the file so that it can be removed, and report the first error only
        with suppress(OSError, FFmpegError):
            container.close()
        raise
    with _write_errors(goal):
        container.close()


@contextmanager
def _write_errors(path: Path) -> Iterator[None]:
    """Turn an error of the file into an OSError that says in one sentence why `path` cannot be written."""
    from av.error import FFmpegError

    try:
        yield
    except (OSError, FFmpegError) as error:
        code = error.errno or 0
        reason = _REASONS.get(code) or f"{os.strerror(code) if code else error}; name another file"
        raise OSError(f"Cannot write {path}: {reason}.") from error
