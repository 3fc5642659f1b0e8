"""Video files opened with PyAV: their frames upright, in RGB, and each with the times between which it is shown.

What a file says of itself is obeyed: rotation and mirroring, pixels that are not square, colours, time stamps. PyAV is
imported when a file is opened.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from .background import WHITE, opaque_pixels
from .colours import ColourTags, frame_pixels
from .frame_times import ROUNDING, Timed, timed

if TYPE_CHECKING:
    from av import Packet, VideoFrame

logger = logging.getLogger("cogvideox")

ENDINGS = (".mp4", ".mov", ".m4v", ".webm", ".mkv", ".avi", ".gif")
"""How names of video files end, for whoever looks through a folder; a file may be called otherwise."""

_USUAL_FPS = Fraction(25)  # FFmpeg's guess where a file says nothing
_MICROSECONDS = 1_000_000  # in which containers count their length
_COVER = 0x400  # FFmpeg's flag of a picture that belongs to a song
_SQUARE = 0.01  # how far from 1 the sides of a pixel may be
_WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # FFmpeg's own decoders of these two leave alpha out
COMPLETE = "give a complete video file such as an mp4"


class VideoFile:
    """An open video file; `open_video` makes it.

    Attributes:
        name: what messages call it.
        metadata: the tags of the file.
        fps: frames per second, on average.
        seconds: how long the file says it is; None where it says nothing.
        rounding: seconds by which times of frames may be off.
    """

    def __init__(self, container: Any, name: str) -> None:
        stream = _pictures(container, name)
        self._container, self._stream, self._decoder = container, stream, _decoder(stream)
        self.name = name
        self.metadata: dict[str, str] = container.metadata
        self.fps = Fraction(stream.average_rate or stream.guessed_rate or _USUAL_FPS)
        self.rounding = max(ROUNDING, _rounding(stream.time_base, 1 / self.fps))
        whole = stream.duration and stream.duration * stream.time_base
        self.seconds = float(whole or Fraction(container.duration or 0, _MICROSECONDS)) or None
        self._told_range = False

    def frames(self, start: float = 0.0) -> Iterator[Timed[VideoFrame]]:
        """Decoded frames; the first one that comes at second `start` or later is shown at time 0.

        Raises: ValueError where the file is damaged or cut short.
        """
        return timed(self._moments(self._decoded(start)))

    def times(self) -> Iterator[Timed[Packet]]:
        """When each frame is shown, without decoding any.

        Raises: ValueError where the file is damaged or cut short.
        """
        with _read_errors(self.name):
            packets = [packet for packet in self._container.demux(self._stream) if packet.size]
        packets = [packet for packet in packets if not packet.is_discard]
        if all(packet.pts is not None for packet in packets):
            packets.sort(key=lambda packet: packet.pts)  # they come in the order of decoding
        return timed(self._moments(packets))

    def pixels(self, frame: VideoFrame, background: str = WHITE) -> Tensor:
        """A decoded frame, upright and on the background where it is transparent: [3, H, W] in [0, 1].

        Raises: ValueError for colours that are not read.
        """
        decoder = self._decoder
        tags = ColourTags(int(decoder.colorspace), int(decoder.color_primaries), int(decoder.color_trc))
        if tags.hdr and not self._told_range:
            logger.info("%s is HDR (%s): its colours are brought to those of a usual screen", self.name, tags.hdr)
            self._told_range = True
        try:
            pixels = frame_pixels(frame, tags)
        except ValueError as error:
            raise ValueError(f"{self.name} cannot be read as a video: {error}.") from error
        pixels = opaque_pixels(pixels, background)
        return upright(square(pixels, self._stream.sample_aspect_ratio), _display_matrix(frame))

    def _decoded(self, start: float) -> Iterator[VideoFrame]:
        with _read_errors(self.name):
            if start > 0:
                self._container.seek(int(start / self._stream.time_base), stream=self._stream)
            for packet in self._container.demux(self._stream):
                for frame in self._decoder.decode(packet):
                    if frame.pts is None or frame.pts * self._stream.time_base >= start:
                        yield frame

    def _moments(self, parts: Any) -> Iterator[tuple[Fraction, Fraction, Any]]:
        """Time and duration of packets or frames; those without are as far apart as the average."""
        for number, part in enumerate(parts):
            tick, duration = self._stream.time_base, getattr(part, "duration", None)  # frames have one since PyAV 15
            time = number / self.fps if part.pts is None else part.pts * tick
            yield time, duration * tick if duration else 1 / self.fps, part


@contextmanager
def open_video(source: str | Path | BinaryIO) -> Iterator[VideoFile]:
    """A video file to read from, by its path or as a stream of its bytes.

    Raises:
        FileNotFoundError; ValueError, in one sentence, for whatever is wrong with the file;
        ImportError if PyAV is missing.
    """
    name = str(existing_file(source)) if isinstance(source, str | Path) else "the video"
    need_av()
    import av
    from av.error import FFmpegError

    try:
        # The prefix keeps FFmpeg from taking the beginning of a name such as "12:30.mp4" for a protocol.
        container = av.open(f"file:{name}" if isinstance(source, str | Path) else source)
    except (OSError, FFmpegError) as error:
        raise ValueError(f"{name} cannot be read as a video; {COMPLETE}.") from error
    with container:
        yield VideoFile(container, name)


def need_av() -> None:
    """Raises: ImportError, in one sentence, if the package for video files is missing."""
    try:
        import av  # noqa: F401
    except ImportError as error:
        raise ImportError("Video files need the package av, which is missing; run: pip install av") from error


def existing_file(path: str | Path) -> Path:
    """The path of a file. Raises: FileNotFoundError if there is none."""
    path = Path(path)
    if not os.path.isfile(path):
        found = "it is a folder" if os.path.isdir(path) else "there is no such file"
        raise FileNotFoundError(f"Cannot read {path}: {found}; check the path.")
    return path


def square(pixels: Tensor, aspect: Fraction | None) -> Tensor:
    """A frame [3, H, W] of pixels that are `aspect` times as wide as high, with square ones: made wider or narrower."""
    if not aspect or abs(aspect - 1) <= _SQUARE:
        return pixels
    size = (pixels.shape[1], max(1, round(pixels.shape[2] * aspect)))
    return F.interpolate(pixels[None], size, mode="bilinear", antialias=True)[0]


def upright(pixels: Tensor, matrix: tuple[int, int, int, int]) -> Tensor:
    """A frame [3, H, W] as it is to be looked at, width and height exchanged where it lies on its side.

    Args: matrix: (a, b, c, d) sends column x and row y of the frame to column a x + c y and row b x + d y.
    """
    a, b, c, d = matrix
    if abs(b) + abs(c) > abs(a) + abs(d):
        pixels, a, d = pixels.transpose(1, 2), c, b
    mirrored = [axis for axis, sign in ((2, a), (1, d)) if sign < 0]
    return pixels.flip(mirrored) if mirrored else pixels


def _display_matrix(frame: VideoFrame) -> tuple[int, int, int, int]:
    """What a file's header does to columns and rows, phones write it; that of a plain frame if there is none."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return 1, 0, 0, 1
    a, b, _, c, d, *_ = (int(value) for value in np.frombuffer(data, np.int32))
    return a, b, c, d


def _rounding(tick: Fraction, period: Fraction) -> Fraction:
    """By how much times in ticks may be off: by nothing where frames are one tick apart, as in AVI."""
    return tick / 2 if tick < period else Fraction(0)


def _pictures(container: Any, name: str) -> Any:
    """The stream of pictures, if there is one that can be decoded."""
    streams = [stream for stream in container.streams.video if not int(getattr(stream, "disposition", 0)) & _COVER]
    if not streams:
        raise ValueError(f"{name} cannot be read as a video, for there are no pictures in it; {COMPLETE}.")
    if streams[0].codec_context is None:
        raise ValueError(f"{name} cannot be read as a video, for PyAV has no decoder for it; convert it to an mp4.")
    return streams[0]


def _decoder(stream: Any) -> Any:
    """What decodes a stream, in several threads, and its alpha if it has some."""
    from av import CodecContext

    decoder = stream.codec_context
    if stream.metadata.get("alpha_mode") == "1" and decoder.name in _WITH_ALPHA:
        decoder = CodecContext.create(_WITH_ALPHA[decoder.name], "r")
    decoder.thread_type = "AUTO"
    return decoder


@contextmanager
def _read_errors(name: str) -> Iterator[None]:
    from av.error import FFmpegError

    try:
        yield
    except (OSError, FFmpegError) as error:
        raise ValueError(f"{name} cannot be read to its end; {COMPLETE}.") from error
