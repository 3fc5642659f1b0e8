"""A finished video in numbers: how close its ends are, and which frames are black or stand still."""

from __future__ import annotations

import math
import statistics
from typing import TypedDict

import torch
from torch import Tensor

HIGHEST_PSNR = 99.0  # equal pictures have an infinite one, which JSON cannot carry

# FFmpeg's blackdetect: a pixel is black up to this luma, a picture if so many of its pixels are.
BLACK_LUMA, BLACK_SHARE = 0.10, 0.98
# FFmpeg's freezedetect: the mean absolute difference (-60 dB) below which two pictures are one.
FROZEN_DIFFERENCE = 0.001
LUMA = (0.299, 0.587, 0.114)  # BT.601


class Checks(TypedDict):
    """PSNR in decibels, at most `HIGHEST_PSNR`, None where there is nothing to compare; runs are [first, last]."""

    first_frame: float | None  # of frame 0 against the reference's
    reference: float | None  # the mean over the frames that both have, for a reference of several frames
    seam: float | None  # of the last frame against the first
    step: float | None  # between neighbours, the median: what a seam that nobody sees is like
    black: list[list[int]]
    frozen: list[list[int]]  # every frame but the first of a run repeats the one before it


def check(frames: Tensor, reference: Tensor | None = None) -> Checks:
    """Args: frames [F, H, W, 3] and reference [R, H, W, 3], of the same size, from 0 to 1; what is not finite is 0."""
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
    against = [] if reference is None else _against(frames, reference)
    return {
        "first_frame": against[0] if against else None,
        "reference": _rounded(statistics.fmean(against)) if reference is not None and len(reference) > 1 else None,
        "seam": _decibels(previous - first) if len(frames) > 1 else None,
        "step": _rounded(statistics.median(steps)) if steps else None,
        "black": _runs(black),
        "frozen": [[start - 1, end] for start, end in _runs(frozen)],
    }


def _against(frames: Tensor, reference: Tensor) -> list[float]:
    return [_decibels(_finite(ours) - _finite(theirs)) for ours, theirs in zip(frames, reference, strict=False)]


def _decibels(difference: Tensor) -> float:
    """PSNR of two pictures by what they differ in."""
    error = difference.square().mean().item()
    return HIGHEST_PSNR if error == 0 else _rounded(min(-10 * math.log10(error), HIGHEST_PSNR))


def _is_black(frame: Tensor) -> bool:
    luma = frame @ torch.tensor(LUMA, device=frame.device)
    return (luma <= BLACK_LUMA).float().mean().item() >= BLACK_SHARE


def _finite(frame: Tensor) -> Tensor:
    """[H, W, 3], as float32 whatever the node before gave."""
    return frame[..., :3].float().nan_to_num(0.0, 0.0, 0.0)


def _runs(indices: list[int]) -> list[list[int]]:
    """Ascending numbers as runs: [1, 2, 3, 7] is [[1, 3], [7, 7]]."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and runs[-1][1] == index - 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return runs


def _rounded(decibels: float) -> float:
    return round(decibels, 2)
