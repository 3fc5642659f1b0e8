"""A finished video in numbers: PSNR by hand, black and frozen frames, and numbers that are none."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cogvideox_core.videos.checks import HIGHEST_PSNR, check


def grey(*levels: float) -> Tensor:
    """A frame of each level, [F, 4, 6, 3]."""
    return torch.tensor(levels)[:, None, None, None].expand(-1, 4, 6, 3).clone()


def psnr(difference: float) -> float:
    return round(-20 * math.log10(difference), 2)


def test_seam_and_steps_are_psnr_between_frames() -> None:
    checks = check(grey(0.5, 0.6, 0.8))
    assert checks["seam"] == pytest.approx(psnr(0.3), abs=0.01)
    assert checks["step"] == pytest.approx((psnr(0.1) + psnr(0.2)) / 2, abs=0.01)
    assert (checks["first_frame"], checks["reference"], checks["black"], checks["frozen"]) == (None, None, [], [])


def test_a_picture_is_compared_with_the_first_frame_and_a_video_with_all() -> None:
    video = grey(0.5, 0.6)
    one = check(video, grey(0.4))
    assert one["first_frame"] == pytest.approx(psnr(0.1), abs=0.01) and one["reference"] is None
    both = check(video, grey(0.4, 0.4, 0.9))
    assert both["first_frame"] == one["first_frame"]
    assert both["reference"] == pytest.approx((psnr(0.1) + psnr(0.2)) / 2, abs=0.01)
    assert check(video, video)["reference"] == HIGHEST_PSNR, "equal pictures"


def test_one_frame_has_nothing_to_compare() -> None:
    checks = check(grey(0.5))
    assert checks["seam"] is None and checks["step"] is None and checks["frozen"] == []


def test_black_and_frozen_frames_are_ranges() -> None:
    checks = check(grey(0.05, 0.05, 0.5, 0.5, 0.5, 0.9, 0.02))
    assert checks["black"] == [[0, 1], [6, 6]]
    assert checks["frozen"] == [[0, 1], [2, 4]]


def test_a_frame_is_black_if_98_percent_of_its_pixels_are() -> None:
    frame = torch.zeros(1, 10, 10, 3)
    frame[0, 0, :2] = 1.0
    assert check(frame)["black"] == [[0, 0]]
    frame[0, 0, 2] = 1.0
    assert check(frame)["black"] == []


def test_what_is_not_finite_counts_as_0_and_half_precision_is_taken() -> None:
    frames = grey(0.5, 0.5)
    frames[1] = float("nan")
    assert check(frames)["seam"] == pytest.approx(psnr(0.5), abs=0.01)
    assert check(grey(0.5, 0.75).half())["seam"] == pytest.approx(psnr(0.25), abs=0.01)
