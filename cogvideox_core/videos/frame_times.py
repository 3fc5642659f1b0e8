"""Which frames of a video are shown at the times of another frame rate.

Output frame i is the frame that is on the screen at i / fps seconds, so frames are left out where a video has more and
repeated where it has fewer, and what moves keeps its speed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Generic, Literal, NamedTuple, TypeVar

Shown = TypeVar("Shown")

Rate = Literal["model", "every"] | float
"""Which frames of a video are taken: those at a model's frame rate, every one, or so many per second."""

MODELS_RATE: Literal["model"] = "model"
EVERY_FRAME: Literal["every"] = "every"

ROUNDING = Fraction(1, 1000)
"""Seconds by which the times in a file may be off: WebM and others count milliseconds."""


def frames_per_second(rate: Rate, models_fps: float) -> float | None:
    """The number that a choice stands for, for a model of this frame rate; None for every frame."""
    if rate == MODELS_RATE:
        return models_fps
    return None if rate == EVERY_FRAME else float(rate)


class Timed(NamedTuple, Generic[Shown]):
    """Something that is shown from second `start` until second `end`, counted from a video's first frame."""

    start: Fraction
    end: Fraction
    shown: Shown


def timed(moments: Iterable[tuple[Fraction, Fraction, Shown]]) -> Iterator[Timed[Shown]]:
    """Frames that are shown until the next one comes, and the last one for its own duration.

    Args: moments: for each frame its time in seconds, its duration, and the frame; a time that goes back stands still.
    """
    first, current = None, None
    for time, duration, shown in moments:
        first = time if first is None else first
        start = time - first
        if current is not None:
            start = max(start, current.start)
            yield current._replace(end=start)
        current = Timed(start, start + duration, shown)
    if current is not None:
        yield current


def at_rate(
    frames: Iterable[Timed[Shown]], fps: float | Fraction, rounding: Fraction = ROUNDING
) -> Iterator[Timed[Shown]]:
    """The frames that are shown at 0, 1 / fps, 2 / fps, ... seconds, one at a time.

    A video ends with its last frame: where a time falls on the very end, as the 49th of 6 seconds at 8 fps does, that
    frame stands for it, unless the time before had it already.

    Args: frames: in the order of their times, which may be off by `rounding` seconds.
    """
    step = 1 / Fraction(fps)
    time, last, used = Fraction(0), None, False
    for frame in frames:
        last, used = frame, False
        while time < frame.end - rounding:
            yield frame
            time, used = time + step, True
    if last is not None and not used and time <= last.end + rounding:
        yield last
