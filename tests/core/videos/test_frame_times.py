"""Which frames are taken at another rate, against FFmpeg's own filter for it."""

from __future__ import annotations

from fractions import Fraction
from itertools import islice, pairwise
from typing import cast

import av
import numpy as np
import pytest
from av.filter import Graph

from cogvideox_core.videos.frame_times import Timed, at_rate, frames_per_second, timed


def film(times: list[Fraction], last: Fraction) -> list[Timed[int]]:
    """Frames with their numbers, shown from these times on, the last one for so long."""
    moments = [*times, times[-1] + last]
    return [Timed(start, end, number) for number, (start, end) in enumerate(pairwise(moments))]


def constant(count: int, fps: float) -> list[Timed[int]]:
    step = 1 / Fraction(fps).limit_denominator(1001)
    return film([step * number for number in range(count)], step)


def taken(frames: list[Timed[int]], fps: float) -> list[int]:
    return [frame.shown for frame in at_rate(frames, fps)]


def of_ffmpeg(times: list[Fraction], fps: int) -> list[int]:
    """What the filter `fps` takes, whose frames are rounded up to the times of its own."""
    graph = Graph()
    source = graph.add_buffer(width=16, height=16, format="gray", time_base=Fraction(1, 90000))
    chosen, sink = graph.add("fps", f"fps={fps}:round=up:start_time=0"), graph.add("buffersink")
    source.link_to(chosen)
    chosen.link_to(sink)
    graph.configure()
    for number, time in enumerate(times):
        frame = av.VideoFrame.from_ndarray(np.full((16, 16), number, np.uint8), format="gray")
        frame.pts, frame.time_base = round(time * 90000), Fraction(1, 90000)
        source.push(frame)
    source.push(None)
    numbers = []
    try:
        while True:
            numbers.append(int(cast(av.VideoFrame, sink.pull()).to_ndarray()[0, 0]))
    except (EOFError, BlockingIOError):
        return numbers


@pytest.mark.parametrize("there", [30, 25, 24, 60, 15, 12, 10, 5])
@pytest.mark.parametrize("fps", [8, 16])
def test_frames_are_those_that_ffmpeg_takes(there: int, fps: int) -> None:
    times = [Fraction(number, there) for number in range(4 * there)]
    ours, theirs = taken(constant(4 * there, there), fps), of_ffmpeg(times, fps)
    assert len(theirs) > 3 * fps
    assert ours[: len(theirs)] == theirs[: len(ours)]


def test_frames_of_uneven_times_are_those_that_ffmpeg_takes() -> None:
    random = np.random.default_rng(0)
    times = [Fraction(int(time), 1000) for time in np.cumsum(random.integers(4, 200, 120)) - 4]
    times = [time - times[0] for time in times]
    clear = [time for time in times if min((time * 8) % 1, 1 - (time * 8) % 1) > Fraction(1, 100)]  # of the rounding
    ours, theirs = taken(film([times[0], *clear], Fraction(1, 8)), 8), of_ffmpeg([times[0], *clear], 8)
    assert ours[: len(theirs)] == theirs[: len(ours)] and len(ours) > 60


@pytest.mark.parametrize(
    ("count", "there", "fps", "wanted"),
    [
        (180, 30, 8, [min(i * 30 // 8, 179) for i in range(49)]),  # 6 seconds are a video of a 1.0 model
        (150, 30, 16, [min(i * 30 // 16, 149) for i in range(81)]),  # 5 seconds are one of a 1.5 model
        (17, 24, 8, [0, 3, 6, 9, 12, 15]),
        (49, 8, 8, list(range(49))),
        (9, 8, 16, [number for number in range(9) for _ in range(2)]),
        (1, 30, 8, [0]),
        (1, 5, 8, [0, 0]),
    ],
)
def test_times_are_counted_from_the_first_frame_to_the_end(
    count: int, there: float, fps: float, wanted: list[int]
) -> None:
    assert taken(constant(count, there), fps) == wanted


@pytest.mark.parametrize("fps", [8, 12, 16, 24, 30000 / 1001])
@pytest.mark.parametrize("tick", [Fraction(1, 1000), Fraction(1, 600), Fraction(1, 100)])
def test_times_that_a_file_rounds_do_not_repeat_a_frame(fps: float, tick: Fraction) -> None:
    """WebM counts milliseconds, QuickTime parts of 600, GIF hundredths."""
    exact = constant(60, fps)
    times = [round(frame.start / tick) * tick for frame in exact]
    frames = film(times, exact[0].end)
    rounding = max(Fraction(1, 1000), tick / 2)
    assert [frame.shown for frame in at_rate(frames, 1 / exact[0].end, rounding)] == list(range(60))


def test_an_endless_video_is_read_as_far_as_needed() -> None:
    seen = []

    def endless():
        for number in range(10**9):
            seen.append(number)
            yield Timed(Fraction(number, 30), Fraction(number + 1, 30), number)

    assert [frame.shown for frame in islice(at_rate(endless(), 8), 3)] == [0, 3, 7]
    assert len(seen) == 8


def test_frames_last_until_the_next_one_and_time_never_goes_back() -> None:
    moments = [(Fraction(start), Fraction(1), name) for start, name in ((5, "a"), (7, "b"), (6, "c"), (9, "d"))]
    assert list(timed(moments)) == [(0, 2, "a"), (2, 2, "b"), (2, 4, "c"), (4, 5, "d")]
    assert list(timed([])) == list(at_rate([], 8)) == []


def test_a_rate_is_the_models_or_every_frame_or_a_number() -> None:
    assert frames_per_second("model", 16) == 16
    assert frames_per_second("every", 16) is None
    assert frames_per_second(12.5, 16) == 12.5
