"""The beginning of a video file as a tensor, at its own frame rate or at another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

import torch
from torch import Tensor

from .background import WHITE
from .decoding import COMPLETE, open_video
from .frame_times import Timed, at_rate

Shown = TypeVar("Shown")


class Clip(NamedTuple):
    """Frames that were read from a file.

    Attributes:
        frames: [1, 3, F, H, W] in [0, 1].
        fps: frames per second.
        ends: for each frame, the second of the file until which it is shown, counted from where reading began.
        seconds: how long the file says it is; None where it says nothing.
    """

    frames: Tensor
    fps: float
    ends: tuple[float, ...]
    seconds: float | None

    def __str__(self) -> str:
        """How many frames it has, and of which part of the file."""
        count, used = len(self.ends), self.ends[-1]
        whole = "" if self.seconds is None else f" of {max(self.seconds, used):.3g}"
        return f"{count} frame{'s' * (count != 1)} at {self.fps:.4g} fps, the first {used:.3g}{whole} seconds"


class Part(NamedTuple):
    """From which second of a file to read, and for how many; None for all that follow."""

    start: float = 0.0
    seconds: float | None = None


WHOLE = Part()


def read_clip(
    source: str | Path | BinaryIO,
    *,
    fps: float | None = None,
    max_frames: int | None = None,
    part: Part = WHOLE,
    background: str = WHITE,
    prepare: Callable[[Tensor], Tensor] | None = None,
) -> Clip:
    """Read a video file, all of it or its first frames.

    Args:
        fps: of the frames: those that are shown at 0, 1 / fps, 2 / fps, ... seconds; None for every frame there is.
        background: the colour that transparent frames are put on.
        prepare: makes of each frame [3, H, W] what is kept of it, so that a large video takes no more memory than that.
    Raises: FileNotFoundError, or ValueError if the file is no readable video.
    """
    with open_video(source) as video:
        moments = _within(video.frames(part.start), part)
        chosen = moments if fps is None else at_rate(moments, fps, video.rounding)
        frames, ends = [], []
        for moment in islice(chosen, max_frames):
            pixels = video.pixels(moment.shown, background)  # [3, H, W]
            frames.append(pixels if prepare is None else prepare(pixels))
            ends.append(float(moment.end))
            if frames[-1].shape != frames[0].shape:
                (before, now) = (f"{frame.shape[2]}x{frame.shape[1]}" for frame in (frames[0], frames[-1]))
                raise ValueError(f"{video.name} changes its size from {before} to {now}; give a video of one size.")
        if not frames:
            raise ValueError(f"{video.name} holds no frame that can be read; {COMPLETE}.")
        return Clip(torch.stack(frames, dim=1)[None], float(fps or video.fps), tuple(ends), video.seconds)


def count_frames(source: str | Path, fps: float | None = None) -> int:
    """How many frames `read_clip` would give, without decoding any.

    Raises: FileNotFoundError, or ValueError if the file is no readable video.
    """
    with open_video(source) as video:
        moments = video.times()
        return sum(1 for _ in (moments if fps is None else at_rate(moments, fps, video.rounding)))


def _within(moments: Iterable[Timed[Shown]], part: Part) -> Iterator[Timed[Shown]]:
    """The frames that come before the end of the part."""
    for moment in moments:
        if part.seconds is not None and moment.start >= part.seconds:
            return
        yield moment
