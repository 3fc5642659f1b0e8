"""Which timestep each clip of a batch is noised to."""

from __future__ import annotations

from .loop import chance


def explicit_uniform(step: int, slots: range, batch_size: int, *, seed: int = 0, total: int = 1000) -> list[int]:
    """One timestep per clip: 0 to `total` - 1 is cut into as many intervals as the global batch has clips, over all
    processes and accumulation steps, and each clip draws uniformly inside an interval of its own.

    So every step sees all noise levels, and its loss varies less from one step to the next. Which clip gets which
    interval is shuffled anew in every step.
    Source: arXiv 2408.06072 section 3.4.
    """
    intervals = list(range(batch_size))
    chance(seed, step).shuffle(intervals)
    return [
        min(int((intervals[slot] + chance(seed, step, slot).random()) * total / batch_size), total - 1)
        for slot in slots
    ]


def independent(step: int, slots: range, batch_size: int, *, seed: int = 0, total: int = 1000) -> list[int]:
    """One timestep per clip, each drawn from all of them: the usual way, for comparison."""
    del batch_size
    return [chance(seed, step, slot).randrange(total) for slot in slots]
