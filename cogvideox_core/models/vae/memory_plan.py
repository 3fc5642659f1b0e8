"""Whether a clip fits into memory as a whole, and what to do if not."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from ..config import VAEConfig
from ..shapes import VideoSize
from .memory import MEMORY, Task
from .tiling import Tiling

logger = logging.getLogger("cogvideox")

TilingChoice = Literal["auto", "exact", "blended"]
TILING_CHOICES: tuple[TilingChoice, ...] = get_args(TilingChoice)
_GIB = 2**30


@dataclass(frozen=True)
class Plan:
    """How to decode or encode a clip.

    Attributes:
        tiling: blended tiles; None for the exact picture.
        carry_device: as in `AutoencoderCausal3D.decode_stream`.
    """

    tiling: Tiling | None = None
    carry_device: torch.device | None = None


def make_plan(
    task: Task,
    choice: TilingChoice,
    config: VAEConfig,
    size: VideoSize,
    weight: torch.Tensor,
    *,
    free: int | None,
    tiles: Tiling | None = None,
) -> Plan:
    """The plan for a clip.

    "exact" keeps what convolutions carry where they compute if it fits there, else in main memory. "auto" does the
    same while one of the two fits; if neither does it takes blended tiles, and a sentence in the log says so.

    Args:
        size: of the video.
        weight: a tensor of the dtype and device that are computed in.
        free: bytes that may be taken; None if nobody knows, then everything fits.
        tiles: for blending; the published ones if None.
    """
    tiles = tiles or Tiling.of(config)
    if choice == "blended":
        return Plan(tiles)
    if free is None:
        return Plan()
    plans, memory, needed = [Plan()], MEMORY[task], 0
    if weight.device.type != "cpu":
        plans.append(Plan(carry_device=torch.device("cpu")))
    for plan in plans:
        needed = memory(config, size, weight.dtype, weight.device, keeps_carry=plan.carry_device is None)
        if needed <= free:
            return plan
    if choice == "exact" or (size.height <= tiles.tile_height and size.width <= tiles.tile_width):
        return plans[-1]
    logger.warning(
        "to %s %s exactly takes %.1f GiB beside the model and %.1f GiB are free: blended tiles it is, which come close "
        "but are not the same picture",
        task,
        size,
        needed / _GIB,
        free / _GIB,
    )
    return Plan(tiles)
