"""Whether a clip fits into memory as a whole, and what to do if not."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import NamedTuple

import torch

from ..config import VAEConfig
from ..sizes import VideoSize
from .memory import MEMORY, Task
from .tiling import Tiling, TilingChoice

logger = logging.getLogger("cogvideox")

_GIB = 2**30


@dataclass(frozen=True)
class Plan:
    """How to decode or encode a clip.

    Attributes:
        tiling: blended tiles; None for the exact picture.
        cache_device: as for `AutoencoderCausal3D.decode_stream`.
    """

    tiling: Tiling | None = None
    cache_device: torch.device | None = None


class Budget(NamedTuple):
    """What a clip is computed in and on, and the bytes that may be allocated there; None if that is unknown."""

    dtype: torch.dtype
    device: torch.device
    free: int | None


def make_plan(
    task: Task,
    choice: TilingChoice,
    config: VAEConfig,
    size: VideoSize,
    budget: Budget,
    tiles: Tiling | None = None,
) -> Plan:
    """The plan for a clip.

    "exact" keeps the frames that convolutions need again where they compute if that fits, else in main memory. "auto"
    does the same as long as one of the two fits; otherwise it chooses blended tiles and says so in the log.

    Args:
        size: of the video.
        budget: where its free bytes are unknown, everything fits.
        tiles: for blending; the published ones if None.
    """
    tiles = tiles or Tiling.of(config)
    if choice == "blended":
        return Plan(tiles)
    dtype, device, free = budget
    if free is None:
        return Plan()
    plans, memory, needed = [Plan()], MEMORY[task], 0
    if device.type != "cpu":
        plans.append(Plan(cache_device=torch.device("cpu")))
    for plan in plans:
        needed = memory(config, size, dtype, device, keeps_cache=plan.cache_device is None)
        if needed <= free:
            return plan
    if choice == "exact" or (size.height <= tiles.tile_height and size.width <= tiles.tile_width):
        return plans[-1]
    logger.warning(
        "to %s %s exactly takes %.1f GiB on top of the model and %.1f GiB are free: blended tiles are used, whose "
        "picture is close but not the same",
        task,
        size,
        needed / _GIB,
        free / _GIB,
    )
    return Plan(tiles)
