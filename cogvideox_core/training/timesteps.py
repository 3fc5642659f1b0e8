"""Which timestep each clip of a batch is noised to."""

from __future__ import annotations

from .objective import seeded_random
from .recipe import EVERYWHERE, Focus


def explicit_uniform(
    step: int, slots: range, batch_size: int, *, seed: int = 0, total: int = 1000, focus: Focus = EVERYWHERE
) -> list[int]:
    """One timestep per clip: 0 to `total` - 1 is cut into as many intervals as the global batch has clips, over all
    processes and accumulation steps, and each clip draws uniformly inside an interval of its own.

    So every step sees all noise levels, and its loss varies less from one step to the next. Which clip gets which
    interval is shuffled in every step. Inside the `focus` intervals are narrower.
    Source: arXiv 2408.06072 section 3.4; without focus.
    """
    intervals = list(range(batch_size))
    seeded_random(seed, step).shuffle(intervals)
    shares = [(intervals[slot] + seeded_random(seed, step, slot).random()) / batch_size for slot in slots]
    return [_timestep(share, total, focus) for share in shares]


def independent(
    step: int, slots: range, batch_size: int, *, seed: int = 0, total: int = 1000, focus: Focus = EVERYWHERE
) -> list[int]:
    """One timestep per clip, each drawn from all of them: the usual way, for comparison."""
    del batch_size
    return [_timestep(seeded_random(seed, step, slot).random(), total, focus) for slot in slots]


def _timestep(share: float, total: int, focus: Focus) -> int:
    return min(int(_quantile(share, total, focus)), total - 1)


def _quantile(share: float, total: int, focus: Focus) -> float:
    """The timestep below which `share`, from 0 to 1, of all clips are.

    The density over timesteps has two levels, one inside and one outside of the focus, so the share of clips below a
    timestep is a line of three pieces; this is its inverse.
    """
    outside = (1 - focus.share) / total  # share of clips for each timestep outside of the focus
    below = outside * focus.low
    within = outside * (focus.high - focus.low) + focus.share
    if share < below:
        return share / outside
    if share < below + within:
        return focus.low + (share - below) / within * (focus.high - focus.low)
    return focus.high + (share - below - within) / outside
