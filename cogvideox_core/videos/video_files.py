"""Writing video files: mp4, WebM, GIF, animated WebP, and PNG files; the ending of the name decides.

A video is written frame by frame as the VAE decodes it, to a temporary file in the same folder that is renamed when it
is complete: a failure leaves nothing behind.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from .file_tags import COMMENT, Tags
from .film_writers import (
    BEST_CRF,
    DEFAULT_CRF,
    SOUND_CHANNELS,
    WEBM_CODECS,
    WORST_CRF,
    Sound,
    Target,
    Writer,
    gif_file,
    mp4_file,
    png_files,
    webm_file,
    webp_file,
)

_LARGEST_DENOMINATOR = 65535  # of a frame rate as a fraction: 30000/1001 and the like
_PROBE_BYTES = 1 << 18
_NUMBER = re.compile(r"%(0\d+)?d")
_FRAME_NAME = "%05d.png"
_REASONS = {
    errno.ENOSPC: "there is no space left on the disk; free some, or name a file on another disk",
    errno.EDQUOT: "your quota on this disk is used up; free some, or name a file on another disk",
    errno.EFBIG: "the file would be larger than this system allows; name a file on another disk",
    errno.EACCES: "there is no permission to write in its folder; name a file in another one",
    errno.EPERM: "there is no permission to write in its folder; name a file in another one",
    errno.EROFS: "its folder can only be read; name a file in another one",
    errno.ENAMETOOLONG: "the name is too long; take a shorter one",
}


@dataclass(frozen=True)
class Format:
    """A kind of video file.

    Attributes:
        name: in messages.
        even: whether width and height have to be even.
        sound: whether it can have any.
        most_fps: frames per second that players obey.
        codecs: that can be chosen; the first one is taken where none is.
    """

    name: str
    writer: Writer
    even: bool = False
    sound: bool = False
    most_fps: int = 1000
    codecs: tuple[str, ...] = ()


FORMATS = {
    ".mp4": Format("an mp4", mp4_file, even=True, sound=True),
    ".webm": Format("a WebM", webm_file, even=True, sound=True, codecs=WEBM_CODECS),
    ".gif": Format("a GIF", gif_file, most_fps=50),
    ".webp": Format("a WebP", webp_file),
    ".png": Format("a PNG", png_files),
}


class Encoding(NamedTuple):
    """How mp4 and webm are encoded; `write_video` says what the values are."""

    crf: int = DEFAULT_CRF
    codec: str | None = None


AS_USUAL = Encoding()


def write_video(
    path: str | Path,
    frames: Tensor | Iterable[Tensor],
    fps: float,
    metadata: dict[str, Any] | None = None,
    *,
    crf: int = DEFAULT_CRF,
    codec: str | None = None,
) -> Path:
    """Write a video, in high quality and with BT.709 colours, that holds `metadata` as JSON in its comment.

    Args:
        path: its ending chooses among mp4 (H.264), webm, gif and webp; a folder, or a name such as
            frame_%05d.png, makes a PNG of every frame. An existing file is replaced once the new one is complete.
        frames: [1, 3, F, H, W] in [0, 1], or chunks of it along F. Chunks are asked for one at a time.
        fps: frames per second.
        metadata: anything JSON can hold; `read_metadata` gives it back.
        crf: of mp4 and webm, 0 (nearly without loss) to 51 (smallest); 17 cannot be told from the frames by eye.
        codec: of webm, "vp9" (the default) or "av1", which is smaller and plays in fewer places.
    Returns: path; of PNG files, with the %d of their numbers.
    Raises:
        ValueError if the name, the rate or the size does not fit the format, or there is no frame.
        OSError if the file cannot be written. Whatever `frames` raises passes through. No file is left then.
    """
    return write_frames(path, frames, fps, {COMMENT: metadata or {}}, Encoding(crf, codec))


def write_frames(
    path: str | Path,
    frames: Tensor | Iterable[Tensor],
    fps: float,
    tags: Tags,
    encoding: Encoding = AS_USUAL,
    sound: Sound | None = None,
) -> Path:
    """`write_video` with any tags and with sound, which a format that can have none is written without.

    Args:
        frames: [1, 3, F, H, W] in [0, 1], or chunks of it along F.
        tags: what the file says about itself, by name: what JSON can hold.
    Raises: as `write_video`; ValueError for sound of other than 1, 2 or 6 channels.
    """
    path = check_writable(path)
    check_fps(fps, path)
    check_crf(encoding.crf)
    codec = check_codec(encoding.codec, path)
    kind = FORMATS[path.suffix.lower()]
    sound = _sound_for(kind, sound)
    images = _frames(frames, kind)
    first = next(images, None)
    if first is None:
        raise ValueError(f"There is no frame to write to {path}; give [1, 3, F, H, W] with F of 1 or more.")
    rate = Fraction(fps).limit_denominator(_LARGEST_DENOMINATOR)
    with _put_in_place(path) as partial:
        target = Target(partial, first.shape[1], first.shape[2], rate, tags, encoding.crf, codec, sound, path.name)
        with ExitStack() as stack:
            with write_errors(path):
                add = stack.enter_context(kind.writer(target))
            for frame in chain([first], images):
                with write_errors(path):
                    add(frame)
            with write_errors(path):
                stack.close()  # the rest is written
    return path


def check_writable(path: str | Path) -> Path:
    """Check before a long run that a video can be written to `path`.

    Returns: path; for a folder, with the names of the PNG files that it will hold.
    Raises:
        ValueError for another extension; OSError if the folder is missing, not writable, or full, or holds PNG files of
        these names; ImportError if a package that writing needs is missing.
    """
    path = _with_frame_names(path)
    if os.path.isdir(path):
        raise IsADirectoryError(f"Cannot write {path}: it is a folder; name a file.")
    if path.suffix.lower() not in FORMATS:
        numbered = path.with_name(f"{path.stem}_%05d.png")
        raise ValueError(
            f"Cannot write {path}: videos are written as .mp4, .webm, .gif or .webp, or as PNG files, named as a "
            f"folder or as {numbered}; use {path.with_suffix('.mp4')}."
        )
    if path.suffix.lower() == ".png":
        _check_sequence(path)
    folder = path.parent.parent if _makes_folder(path) else path.parent
    if not os.path.isdir(folder):
        raise FileNotFoundError(
            f"Cannot write {path}: there is no folder {folder}; make it first, or name another file."
        )
    _need_packages()
    probe = _hidden_name(folder / path.name, "probe")
    with write_errors(path):
        with suppress(FileNotFoundError):
            path.lstat()  # knows names that are too long
        try:
            probe.write_bytes(bytes(_PROBE_BYTES))
        finally:
            probe.unlink(missing_ok=True)
    return path


def check_fps(fps: float, path: str | Path = "") -> None:
    """Raises: ValueError for a frame rate no video has, or none of this format."""
    if not 0 < fps <= 1000:
        raise ValueError(f"fps={fps:g}; a video has more than 0 and at most 1000 frames per second; use 8 or 16.")
    kind = FORMATS.get(Path(path).suffix.lower())
    if kind is not None and fps > kind.most_fps:
        raise ValueError(
            f"fps={fps:g}; players show at most {kind.most_fps} frames per second of {kind.name}; use mp4."
        )


def check_crf(crf: int) -> None:
    """Raises: ValueError for what is no quality."""
    if not BEST_CRF <= crf <= WORST_CRF:
        raise ValueError(f"crf={crf}; it is {BEST_CRF} (best) to {WORST_CRF} (smallest); use {DEFAULT_CRF}.")


def check_codec(codec: str | None, path: str | Path) -> str:
    """The codec to write a file of this name with, "" where its format has but one.

    Raises: ValueError for one that the format does not take.
    """
    path = Path(path)
    kind = FORMATS[path.suffix.lower()]
    if codec is not None and codec not in kind.codecs:
        raise ValueError(f"codec={codec} for {path.name}; there are {', '.join(WEBM_CODECS)}, for .webm files only.")
    return codec or (kind.codecs[0] if kind.codecs else "")


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn an error of the file into an OSError that says in one sentence why `path` cannot be written."""
    from av.error import FFmpegError

    try:
        yield
    except (OSError, FFmpegError) as error:
        code = error.errno or 0
        reason = _REASONS.get(code) or f"{os.strerror(code) if code else error}; name another file"
        raise OSError(f"Cannot write {path}: {reason}.") from error


def _with_frame_names(path: str | Path) -> Path:
    """The path, and below a folder the names of its frames. A folder exists, or ends in a slash."""
    text = os.fspath(path)
    is_folder = text.endswith(("/", os.sep)) or (os.path.isdir(text) and not Path(text).suffix)
    return Path(text) / _FRAME_NAME if is_folder else Path(text)


def _check_sequence(path: Path) -> None:
    """Raises: ValueError for PNG files without a number; OSError where there are some of these names."""
    parts = _NUMBER.split(path.name)
    if len(parts) != 3 or "%" in parts[0] + parts[2]:
        numbered = path.with_name(f"{path.stem.replace('%', '')}_{_FRAME_NAME}")
        raise ValueError(f"Cannot write {path}: one PNG holds one frame, so the name needs a number; use {numbered}.")
    taken = re.compile(re.escape(parts[0]) + r"\d+" + re.escape(parts[2]))
    for name in sorted(os.listdir(path.parent)) if os.path.isdir(path.parent) else ():
        if taken.fullmatch(name):
            raise FileExistsError(
                f"Cannot write {path}: {path.parent / name} is there already; name a new or empty folder."
            )


def _makes_folder(path: Path) -> bool:
    """Whether PNG files go to a folder that is not there yet."""
    return path.suffix.lower() == ".png" and not os.path.lexists(path.parent)


def _sound_for(kind: Format, sound: Sound | None) -> Sound | None:
    """Sound that the format takes; none where there is no sample."""
    if sound is None or not kind.sound or not sound.waveform.shape[-1]:
        return None
    if len(sound.waveform) not in SOUND_CHANNELS:
        raise ValueError(f"audio of {len(sound.waveform)} channels; {kind.name} takes 1, 2 or 6; mix it down to 2")
    return sound


def _frames(frames: Tensor | Iterable[Tensor], kind: Format) -> Iterator[Tensor]:
    """The frames of chunks [1, 3, F, H, W], one by one: [3, H, W], all of one size that the format takes."""
    size = None
    for chunk in [frames] if isinstance(frames, Tensor) else frames:
        if chunk.ndim != 5 or chunk.shape[0] != 1 or chunk.shape[1] != 3:
            raise ValueError(f"Frames of shape {list(chunk.shape)}; a video file takes [1, 3, F, H, W], one video.")
        height, width = chunk.shape[3:]
        if not height or not width or (kind.even and (height % 2 or width % 2)):
            even = f"{width + width % 2 or 2}x{height + height % 2 or 2}"
            raise ValueError(f"Frames of {width}x{height} pixels; {kind.name} takes even sizes; use {even}.")
        size = size or (height, width)
        if size != (height, width):
            raise ValueError(f"Frames of {width}x{height} follow frames of {size[1]}x{size[0]}; use one size.")
        yield from chunk[0].unbind(1)


@contextmanager
def _put_in_place(path: Path) -> Iterator[Path]:
    """A path to write to; what is there afterwards gets its own name, or is removed after an error."""
    is_sequence, makes_folder = path.suffix.lower() == ".png", _makes_folder(path)
    partial = _hidden_name(path.parent if makes_folder else path, f"part{'' if is_sequence else path.suffix}")
    try:
        yield partial
        with write_errors(path):
            if makes_folder or not is_sequence:
                os.replace(partial, path.parent if makes_folder else path)
            else:
                for file in sorted(partial.iterdir()):
                    os.replace(file, path.with_name(file.name))
    finally:
        if is_sequence:
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)


def _hidden_name(path: Path, ending: str) -> Path:
    """The path of a hidden file that does not exist yet, in the folder of `path`."""
    return path.with_name(f".{path.stem[:40]}-{secrets.token_hex(4)}.{ending}")


def _need_packages() -> None:
    """Raises: ImportError, in one sentence, if a package for video files is missing."""
    try:
        import av  # noqa: F401
        import PIL  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"Video files need the packages av and pillow, and {error.name} is missing; run: pip install av pillow"
        ) from error
