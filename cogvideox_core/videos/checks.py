"""A finished video in numbers: how close its ends are, and which frames are black or frozen."""

from __future__ import annotations

import math
import statistics
from typing import TypedDict

import torch
from torch import Tensor

HIGHEST_PSNR = 99.0  # of equal pictures, whose PSNR is infinite, which JSON cannot express

# FFmpeg's blackdetect: a pixel is black up to this luma, a picture if this share of its pixels is.
BLACK_LUMA, BLACK_SHARE = 0.10, 0.98
# FFmpeg's freezedetect: the mean absolute difference (-60 dB) below which two pictures count as equal.
FROZEN_DIFFERENCE = 0.001
LUMA = (0.299, 0.587, 0.114)  # BT.601


class Checks(TypedDict):
    """Similarities as PSNR in decibels, at most `HIGHEST_PSNR`, None where there is nothing to compare.

    Ranges of frames are [first, last].
    """

    first_frame: float | None  # between the first frames of video and reference
    reference: float | None  # mean over the frames that both have, for a reference of several frames
    seam: float | None  # between the last frame and the first
    step: float | None  # median between consecutive frames: a seam no lower than this is not seen
    black: list[list[int]]
    frozen: list[list[int]]  # every frame of a range but the first repeats the one before it


def check(frames: Tensor, reference: Tensor | None = None) -> Checks:
    """Measure a video, and compare it with a reference of the same size. What is not finite counts as 0.

    Args:
        frames: [F, H, W, 3] in [0, 1].
        reference: [R, H, W, 3] in [0, 1]: one picture, or a video of any length.
    """
    steps, frozen, black = [], [], []
    first = previous = _finite(frames[0])
    for index in range(len(frames)):
        frame = _finite(frames[index])
        if _is_black(frame):
            black.append(index)
        if index:
            change = frame - previous
            steps.append(_decibels(change))
            if change.abs().mean().item() < FROZEN_DIFFERENCE:
                frozen.append(index)
        previous = frame
    similarities = [] if reference is None else _similarities(frames, reference)
    return {
        "first_frame": similarities[0] if similarities else None,
        "reference": _rounded(statistics.fmean(similarities)) if reference is not None and len(reference) > 1 else None,
        "seam": _decibels(previous - first) if len(frames) > 1 else None,
        "step": _rounded(statistics.median(steps)) if steps else None,
        "black": _ranges(black),
        "frozen": [[start - 1, end] for start, end in _ranges(frozen)],
    }


def _similarities(frames: Tensor, reference: Tensor) -> list[float]:
    """Decibels between the frames that both have."""
    return [_decibels(_finite(ours) - _finite(theirs)) for ours, theirs in zip(frames, reference, strict=False)]


def _decibels(difference: Tensor) -> float:
    """The PSNR of two pictures whose difference is [H, W, 3]."""
    error = difference.square().mean().item()
    return HIGHEST_PSNR if error == 0 else _rounded(min(-10 * math.log10(error), HIGHEST_PSNR))


def _is_black(frame: Tensor) -> bool:
    luma = frame @ torch.tensor(LUMA, device=frame.device)
    return (luma <= BLACK_LUMA).float().mean().item() >= BLACK_SHARE


def _finite(frame: Tensor) -> Tensor:
    """A frame as [H, W, 3] in float32, whatever its dtype and further channels."""
    return frame[..., :3].float().nan_to_num(0.0, 0.0, 0.0)


def _ranges(indices: list[int]) -> list[list[int]]:
    """Ascending numbers as ranges: [1, 2, 3, 7] is [[1, 3], [7, 7]]."""
    ranges: list[list[int]] = []
    for index in indices:
        if ranges and ranges[-1][1] == index - 1:
            ranges[-1][1] = index
        else:
            ranges.append([index, index])
    return ranges


def _rounded(decibels: float) -> float:
    return round(decibels, 2)
