"""Pixels to latents, and which sizes fit a model."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cogvideox_core.models.shapes import (
    LARGEST_SIDE,
    check_size,
    computed_frames,
    default_size,
    latent_frames,
    latent_size,
    size_advice,
    size_steps,
)
from cogvideox_core.models.sizes import LatentSize, VideoSize
from cogvideox_core.models.variants import DERIVED, VARIANTS

FIRST, LATER = VARIANTS["CogVideoX-5B"], VARIANTS["CogVideoX1.5-5B"]
LEARNED, ANY_SHAPE = VARIANTS["CogVideoX-5B-I2V"], VARIANTS["CogVideoX1.5-5B-I2V"]


@pytest.mark.parametrize(("pixels", "latents"), [(1, 1), (5, 2), (9, 3), (49, 13), (81, 21)])
def test_the_first_frame_is_alone_and_then_one_latent_has_four(pixels: int, latents: int) -> None:
    assert latent_frames(pixels, FIRST) == latents


def test_leading_frames_fill_whole_patches() -> None:
    size = VideoSize(480, 720, 49)
    assert latent_size(size, FIRST.transformer, FIRST) == LatentSize(13, 60, 90, 0)
    assert latent_size(size, LATER.transformer, LATER) == LatentSize(14, 60, 90, 1)


def test_default_sizes_are_the_released_ones_or_those_of_training() -> None:
    assert default_size(FIRST.transformer, FIRST) == VideoSize(480, 720, 49)
    assert default_size(LATER.transformer, LATER) == VideoSize(768, 1360, 81)
    small = replace(FIRST.transformer, sample_height=12, sample_width=12, sample_frames=17)
    assert default_size(small, FIRST) == VideoSize(96, 96, 17)


def test_sides_grow_by_16_and_frames_by_8_in_every_model() -> None:
    for variant in [*VARIANTS.values(), *DERIVED.values()]:
        assert size_steps(variant.transformer, variant) == (16, 8)
        check_size(default_size(variant.transformer, variant), variant.transformer, variant)


@pytest.mark.parametrize(
    ("size", "told"),
    [
        (VideoSize(480, 720, 50), "num_frames=50; CogVideoX-5B was trained for up to 49 frames; use 49, or allow"),
        (VideoSize(480, 720, 0), "num_frames=0; a video has at least 1 frame"),
        (VideoSize(480, 100, 9), "width=100; CogVideoX-5B takes multiples of 16 up to 4096; use 96"),
        (VideoSize(LARGEST_SIDE + 16, 96, 9), "height=4112; .* use 4096"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_does(size: VideoSize, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        check_size(size, FIRST.transformer, FIRST)


def test_limits_of_training_may_be_lifted_but_not_those_of_arithmetic() -> None:
    for frames in (97, 98, 129, 145):
        check_size(VideoSize(480, 720, frames), FIRST.transformer, FIRST, allow_any_size=True)
    with pytest.raises(ValueError, match="num_frames=-7"):
        check_size(VideoSize(480, 720, -7), FIRST.transformer, FIRST, allow_any_size=True)
    with pytest.raises(ValueError, match="width=100"):
        check_size(VideoSize(480, 100, 97), FIRST.transformer, FIRST, allow_any_size=True)


@pytest.mark.parametrize(("asked", "computed"), [(1, 1), (2, 9), (8, 9), (9, 9), (48, 49), (85, 89), (144, 145)])
def test_any_length_is_computed_as_the_next_that_fits(asked: int, computed: int) -> None:
    for variant in (FIRST, LATER):
        config, size = variant.transformer, VideoSize(480, 720, asked)
        assert computed_frames(asked, variant.vae) == computed
        assert latent_size(size, config, variant) == latent_size(VideoSize(480, 720, computed), config, variant)


def test_the_length_of_fun_15_may_be_asked_for() -> None:
    fun = DERIVED["CogVideoX-Fun-V1.5-5B-InP"]
    check_size(VideoSize(384, 672, 85), fun.transformer, fun)
    with pytest.raises(ValueError, match="trained for up to 85 frames; use 85"):
        check_size(VideoSize(384, 672, 86), fun.transformer, fun)


def test_a_learned_table_has_one_size() -> None:
    check_size(VideoSize(480, 720, 49), LEARNED.transformer, LEARNED)
    check_size(VideoSize(480, 720, 42), LEARNED.transformer, LEARNED)  # 49 are computed
    with pytest.raises(ValueError, match="for 720x480 only; use width 720 and height 480, or have the table interpol"):
        check_size(VideoSize(720, 480, 49), LEARNED.transformer, LEARNED)
    with pytest.raises(ValueError, match="for exactly 49 frames; use 49, or have the table interpolated"):
        check_size(VideoSize(480, 720, 17), LEARNED.transformer, LEARNED)
    for table in ("interpolated", "omitted"):
        check_size(VideoSize(720, 480, 17), LEARNED.transformer, LEARNED, position_table=table)
        with pytest.raises(ValueError, match="trained for up to 49"):
            check_size(VideoSize(720, 480, 57), LEARNED.transformer, LEARNED, position_table=table)


def test_advice_only_where_a_model_was_not_trained_at_a_size() -> None:
    assert size_advice(VideoSize(480, 720, 49), FIRST.transformer, FIRST) is None
    told = size_advice(VideoSize(720, 480, 49), FIRST.transformer, FIRST)
    assert told == "480x720 is not the size CogVideoX-5B was trained at (720x480); the picture may suffer"
    told = size_advice(VideoSize(480, 720, 57), FIRST.transformer, FIRST)
    assert told is not None and told.startswith("57 frames are more than the 49 that CogVideoX-5B was trained for")
    assert size_advice(VideoSize(1360, 768, 81), ANY_SHAPE.transformer, ANY_SHAPE) is None
    assert size_advice(VideoSize(768, 768, 81), ANY_SHAPE.transformer, ANY_SHAPE) is None
    assert size_advice(VideoSize(512, 768, 81), ANY_SHAPE.transformer, ANY_SHAPE) is not None
