"""Which timestep each clip of a batch is noised to."""

from __future__ import annotations

from .loop import chance


def explicit_uniform(
    step: int, slots: range, batch_size: int, *, seed: int = 0, total: int = 1000, shift: float = 1.0
) -> list[int]:
    """One timestep per clip: 0 to `total` - 1 is cut into as many intervals as the global batch has clips, over all
    processes and accumulation steps, and each clip draws uniformly inside an interval of its own.

    So every step sees all noise levels, and its loss varies less from one step to the next. Which clip gets which
    interval is shuffled anew in every step. A `shift` other than 1 makes the intervals narrower towards the noise: half
    of the clips are then above `total * shift / (shift + 1)`.
    Source: arXiv 2408.06072 section 3.4; the shift is that of arXiv 2403.03206, section 5.3.2.
    """
    intervals = list(range(batch_size))
    chance(seed, step).shuffle(intervals)
    places = [(intervals[slot] + chance(seed, step, slot).random()) / batch_size for slot in slots]
    return [_timestep(place, total, shift) for place in places]


def independent(
    step: int, slots: range, batch_size: int, *, seed: int = 0, total: int = 1000, shift: float = 1.0
) -> list[int]:
    """One timestep per clip, each drawn from all of them: the usual way, for comparison."""
    del batch_size
    return [_timestep(chance(seed, step, slot).random(), total, shift) for slot in slots]


def _timestep(place: float, total: int, shift: float) -> int:
    """The timestep at `place`, from 0 to 1, of the distribution."""
    return min(int(shift * place / (1 + (shift - 1) * place) * total), total - 1)
