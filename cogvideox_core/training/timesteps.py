"""Which timestep each clip of a batch is noised to."""

from __future__ import annotations

from dataclasses import dataclass

from .loop import chance


@dataclass(frozen=True)
class Focus:
    """`share` of all clips are noised to timesteps from `low` to `high`, the others to any timestep.

    What a video shows, and where, is decided at a few noise levels; a short training is better spent there.
    """

    low: int = 0
    high: int = 1000
    share: float = 0.0

    def timestep(self, place: float, total: int) -> float:
        """The timestep below which `place`, from 0 to 1, of all clips are."""
        anywhere = (1 - self.share) / total
        before, within = anywhere * self.low, anywhere * (self.high - self.low) + self.share
        if place < before:
            return place / anywhere
        if place < before + within:
            return self.low + (place - before) / within * (self.high - self.low)
        return self.high + (place - before - within) / anywhere


EVERYWHERE = Focus()


def explicit_uniform(
    step: int, slots: range, batch_size: int, *, seed: int = 0, total: int = 1000, focus: Focus = EVERYWHERE
) -> list[int]:
    """One timestep per clip: 0 to `total` - 1 is cut into as many intervals as the global batch has clips, over all
    processes and accumulation steps, and each clip draws uniformly inside an interval of its own.

    So every step sees all noise levels, and its loss varies less from one step to the next. Which clip gets which
    interval is shuffled anew in every step. Inside the `focus` intervals are narrower.
    Source: arXiv 2408.06072 section 3.4; without focus.
    """
    intervals = list(range(batch_size))
    chance(seed, step).shuffle(intervals)
    places = [(intervals[slot] + chance(seed, step, slot).random()) / batch_size for slot in slots]
    return [_timestep(place, total, focus) for place in places]


def independent(
    step: int, slots: range, batch_size: int, *, seed: int = 0, total: int = 1000, focus: Focus = EVERYWHERE
) -> list[int]:
    """One timestep per clip, each drawn from all of them: the usual way, for comparison."""
    del batch_size
    return [_timestep(chance(seed, step, slot).random(), total, focus) for slot in slots]


def _timestep(place: float, total: int, focus: Focus) -> int:
    return min(int(focus.timestep(place, total)), total - 1)
