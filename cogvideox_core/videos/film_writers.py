"""Writers of one video each, a context manager per kind of file; entered, one gives a function that takes the frames.

Frames are [3, H, W] in 0 to 1. The file is complete when the context has been left without an error. PyAV writes mp4,
webm and GIF; Pillow writes animated WebP and PNG. Both are imported where they are used.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from .file_tags import COMMENT, Tags, exif, png_info, tag_texts, with_gif_comment
from .pixels import to_bytes, to_yuv420p

Add = Callable[[Tensor], None]

BEST_CRF, WORST_CRF = 0, 51
DEFAULT_CRF = 17  # counts as visually lossless; x264's own default is 23

# Players take a large video for BT.709 whatever its file says, and ComfyUI tags all of its own so; so do we, all sizes.
_COLOUR = {"colorspace": "bt709", "color_primaries": "bt709", "color_trc": "bt709", "color_range": "tv"}
_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}
SOUND_CHANNELS = tuple(_LAYOUTS)
_ANY_RATE = 48000  # samples per second that every encoder takes
_GIF_CENTISECONDS = 100
_WEBP = {
    "quality": 90,
    "method": 3,
}  # the method takes half the time of Pillow's default, for a few per cent more bytes
_PNG_LEVEL = 4  # of compression, as ComfyUI has it


class Sound(NamedTuple):
    """Samples [channels, N] in -1 to 1, so many per second; what is longer than the video is cut."""

    waveform: Tensor
    sample_rate: int


@dataclass(frozen=True)
class Target:
    """What is to be written.

    Attributes:
        path: a file that does not exist yet, or the folder of a PNG sequence.
        height, width: of every frame.
        rate: frames per second.
        tags: what the file says about itself.
        crf: how much mp4 and webm may lose, 0 to 51: less is better, and larger.
        codec: of webm: "vp9" (where it is empty) or "av1".
        name: how the files of a sequence are named, with %d or %05d for the number, which counts from 1.
    """

    path: Path
    height: int
    width: int
    rate: Fraction
    tags: Tags = field(default_factory=dict)
    crf: int = DEFAULT_CRF
    codec: str = ""
    sound: Sound | None = None
    name: str = "%05d.png"


Writer = Callable[[Target], AbstractContextManager[Add]]


@dataclass(frozen=True)
class _Coding:
    """A container with its codecs.

    Attributes:
        crf: the encoder's number for a crf of `Target`, which is x264's.
        tagged: options of the container where there are tags beside the comment.
    """

    video: str
    video_options: Mapping[str, str]
    audio: str
    crf: Callable[[int], int] = int
    options: dict[str, str] = field(default_factory=dict)
    tagged: dict[str, str] = field(default_factory=dict)


# x264's macroblock tree makes different bytes each time; without it the same video always makes the same file, a few
# per cent larger. VP9 keeps as much as x264 with half the crf (PSNR within 0.5 dB), which counts where no bit rate is
# asked for.
_MP4 = _Coding(
    "libx264",
    {"mbtree": "0"},
    "aac",
    options={"movflags": "+faststart"},
    tagged={"movflags": "use_metadata_tags+faststart"},
)
# AV1 keeps more than x264 with the same crf, in about half the bytes; preset 8 of 13 is as fast as x264.
_WEBM = {
    "vp9": _Coding("libvpx-vp9", {"b": "0", "cpu-used": "4", "row-mt": "1"}, "libopus", crf=lambda crf: crf // 2),
    "av1": _Coding("libsvtav1", {"preset": "8"}, "libopus"),
}
WEBM_CODECS = tuple(_WEBM)
_ERRORS_ONLY = "1"  # of what libsvtav1 writes to the terminal


def mp4_file(target: Target) -> AbstractContextManager[Add]:
    """An mp4: H.264, and AAC for sound."""
    return _coded_file(target, _MP4)


def webm_file(target: Target) -> AbstractContextManager[Add]:
    """A WebM: VP9 or AV1, and Opus for sound."""
    os.environ.setdefault("SVT_LOG", _ERRORS_ONLY)
    return _coded_file(target, _WEBM[target.codec or WEBM_CODECS[0]])


@contextmanager
def gif_file(target: Target) -> Iterator[Add]:
    """An animated GIF; each frame has the 256 colours that suit it."""
    with _opened(target.path, {}) as container:
        stream = _add_stream(container, "gif", target)
        stream.pix_fmt = "pal8"
        push, pull = _palette_graph(target)
        numbers = count()

        def add(frame: Tensor) -> None:
            number = next(numbers)
            push(_av_frame(to_bytes(frame), "rgb24", number, target.rate))
            indexed = pull()
            indexed.pts, indexed.time_base = number, 1 / target.rate
            container.mux(stream.encode(indexed))

        yield add
        container.mux(stream.encode(None))
    if target.tags:
        target.path.write_bytes(with_gif_comment(target.path.read_bytes(), target.tags))


@contextmanager
def webp_file(target: Target) -> Iterator[Add]:
    """An animated WebP, whose encoder takes all frames at once, so they are kept in memory in 8 bits until then."""
    from PIL import Image

    pictures: list[Image.Image] = []
    yield lambda frame: pictures.append(Image.fromarray(to_bytes(frame).numpy()))
    ends = [round(1000 * number / target.rate) for number in range(len(pictures) + 1)]
    durations = [
        end - start for start, end in zip(ends, ends[1:], strict=False)
    ]  # whole milliseconds that do not drift
    first, *others = pictures
    moving: dict[str, Any] = {"save_all": True, "append_images": others, "duration": durations, "loop": 0}
    first.save(target.path, "WEBP", exif=exif(target.tags), **_WEBP, **moving)


@contextmanager
def png_files(target: Target) -> Iterator[Add]:
    """A picture for each frame, without loss, in a folder that this makes."""
    from PIL import Image

    target.path.mkdir()
    info, numbers = png_info(target.tags), count(1)

    def add(frame: Tensor) -> None:
        picture = Image.fromarray(to_bytes(frame).numpy())
        picture.save(target.path / (target.name % next(numbers)), pnginfo=info, compress_level=_PNG_LEVEL)

    yield add


@contextmanager
def _coded_file(target: Target, coding: _Coding) -> Iterator[Add]:
    options = coding.options if set(target.tags) <= {COMMENT} else coding.options | coding.tagged
    with _opened(target.path, options) as container:
        container.metadata.update(tag_texts(target.tags))
        stream = _add_stream(container, coding.video, target)
        stream.pix_fmt = "yuv420p"
        stream.codec_context.options = {"crf": str(coding.crf(target.crf)), **coding.video_options, **_COLOUR}
        sound = None if target.sound is None else _add_sound(container, coding.audio, target.sound)
        numbers = count()

        def add(frame: Tensor) -> None:
            container.mux(stream.encode(_av_frame(to_yuv420p(frame), "yuv420p", next(numbers), target.rate)))

        yield add
        container.mux(stream.encode(None))  # what the encoder holds back
        if sound is not None and target.sound is not None:
            _write_sound(container, sound, target.sound, next(numbers) / target.rate)


@contextmanager
def _opened(path: Path, options: dict[str, str]) -> Iterator[Any]:
    """A file to write to. It is closed in any case; what is buffered is written then, which may fail too."""
    import av
    from av.error import FFmpegError

    container = av.open(str(path), "w", options=options)
    try:
        yield container
    except BaseException:  # Ctrl-C too: close the file so that it can be removed, and report the first error only
        with suppress(OSError, FFmpegError):
            container.close()
        raise
    container.close()


def _add_stream(container: Any, codec: str, target: Target) -> Any:
    """The pictures of a new file."""
    stream = container.add_stream(codec, rate=target.rate)
    stream.codec_context.time_base = 1 / target.rate  # so that a frame's time is its number
    stream.height, stream.width = target.height, target.width
    return stream


def _av_frame(pixels: Tensor, layout: str, number: int, rate: Fraction) -> Any:
    """Pixels in 8 bits, [H, W, 3] or as `layout` has them, as the frame of that number."""
    from av import VideoFrame

    frame = VideoFrame.from_ndarray(pixels.numpy(), format=layout)
    frame.pts, frame.time_base = number, 1 / rate
    return frame


def _palette_graph(target: Target) -> tuple[Callable[[Any], None], Callable[[], Any]]:
    """FFmpeg's filters that find the colours of a frame and dither it to them: how to push one, and pull it."""
    from av.filter import Graph
    from av.video.format import VideoFormat

    graph = Graph()
    rgb = VideoFormat("rgb24")
    source = graph.add_buffer(width=target.width, height=target.height, format=rgb, time_base=1 / target.rate)
    split = graph.add("split")
    found = graph.add("palettegen", "stats_mode=single:reserve_transparent=0")
    used = graph.add("paletteuse", "new=1:dither=sierra2_4a")
    sink = graph.add("buffersink")
    source.link_to(split)
    split.link_to(found, 0, 0)
    split.link_to(used, 1, 0)
    found.link_to(used, 0, 1)
    used.link_to(sink)
    graph.configure()
    return graph.push, graph.pull


def _add_sound(container: Any, codec: str, sound: Sound) -> Any:
    """The sound of a new file, at its own rate where the codec has that."""
    from av.codec import Codec

    rates = Codec(codec, "w").audio_rates
    rate = sound.sample_rate if not rates or sound.sample_rate in rates else _ANY_RATE
    return container.add_stream(codec, rate=rate, layout=_LAYOUTS[len(sound.waveform)])


def _write_sound(container: Any, stream: Any, sound: Sound, seconds: Fraction) -> None:
    """Encode as much of the sound as the video is long."""
    from av import AudioFrame

    samples = sound.waveform[:, : math.ceil(seconds * sound.sample_rate)].detach().float().cpu().contiguous()
    frame = AudioFrame.from_ndarray(samples.numpy(), format="fltp", layout=_LAYOUTS[len(samples)])
    frame.sample_rate, frame.pts = sound.sample_rate, 0
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
