"""The chunks in which a clip is encoded and decoded.

They are part of the function: GroupNorm takes its statistics over one chunk.
"""

from __future__ import annotations

FRAMES_PER_CHUNK = 8
LATENTS_PER_CHUNK = 2


def frame_chunks(count: int, size: int) -> list[slice]:
    """Cut `count` frames into chunks of `size`, the remainder joined to the first: 13 by 2 -> 3, 2, 2, 2, 2, 2."""
    number = max(count // size, 1)
    ends = [count - size * (number - 1 - index) for index in range(number)]
    return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
