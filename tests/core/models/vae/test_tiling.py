"""Blended tiles against diffusers, and which tiles there are."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

from cogvideox_core.models.config import VAEConfig
from cogvideox_core.models.vae.tiling import Tiling
from tests.support.parity import assert_parity, relative_difference
from tests.support.vae_pair import BOUND, Pair, assert_encodes_alike, latent_frames, latents, video

OFFICIAL = VAEConfig()
# Sizes whose strides come out whole both in pixels and in latents, as those of the published 240 x 360 tile do.
TILINGS = {
    "both sides, uneven rest": ((104, 88), {}),
    "rows only": ((104, 40), {}),
    "columns only": ((48, 88), {}),
    "other overlaps": ((72, 64), {"overlap_height": 0.5, "overlap_width": 0.4}),
    "other tile": ((104, 88), {"tile_height": 96, "tile_width": 80}),
}


@pytest.mark.parametrize(
    ("case", "frames"), [*((case, frames) for case in TILINGS for frames in (1, 5)), ("both sides, uneven rest", 17)]
)
def test_blended_tiles_equal_the_reference(small_tiles: Pair, case: str, frames: int) -> None:
    (height, width), changes = TILINGS[case]
    default = Tiling.of(small_tiles.config)
    tiling = Tiling(**{field.name: changes.get(field.name, getattr(default, field.name)) for field in fields(Tiling)})
    assert (default.tile_height, default.tile_width) == (48, 40)
    reference = small_tiles.reference
    reference.enable_tiling(tiling.tile_height, tiling.tile_width, tiling.overlap_height, tiling.overlap_width)
    try:
        assert_encodes_alike(small_tiles, video(frames, height, width), f"vae tiles encode {case}", tiling)
        z = latents(latent_frames(frames), height // 8, width // 8)
        tiled = small_tiles.ours.decode(z, tiling)
        assert_parity(tiled, reference.decode(z).sample, BOUND, f"vae tiles decode {case}")
        assert relative_difference(tiled, small_tiles.ours.decode(z)) > 1e-3  # so tiles were used at all
    finally:
        reference.disable_tiling()


def test_a_picture_no_larger_than_a_tile_is_not_tiled(small_tiles: Pair) -> None:
    tiling = Tiling.of(small_tiles.config)
    z, pixels = latents(2, 6, 5), video(5, 48, 40)
    assert torch.equal(small_tiles.ours.decode(z, tiling), small_tiles.ours.decode(z))
    assert torch.equal(small_tiles.ours.encode(pixels, tiling).mean, small_tiles.ours.encode(pixels).mean)


@pytest.mark.parametrize("tiling", [Tiling(32, 48, 1 / 6, 1 / 5), Tiling(36, 48, 0.25, 0.25), Tiling(48, 48, 1.0, 0.5)])
def test_tiles_that_are_no_whole_latents_are_refused(small_tiles: Pair, tiling: Tiling) -> None:
    with pytest.raises(ValueError, match=r"tile and overlap must both be whole latents"):
        small_tiles.ours.decode(torch.zeros(1, 16, 1, 12, 13), tiling)
    with pytest.raises(ValueError, match=r"tile and overlap must both be whole latents"):
        small_tiles.ours.encode(video(1, 96, 104), tiling)


def test_an_overlap_a_hair_below_whole_latents_counts_as_whole(small_tiles: Pair) -> None:
    z = torch.randn(1, 16, 1, 12, 13)
    assert small_tiles.ours.decode(z, Tiling(48, 48, 1 / 6, 1 / 3)).shape[3:] == (96, 104)


def test_tiles_of_any_size_are_whole_latents() -> None:
    assert Tiling.of(OFFICIAL) == Tiling()
    for height, width in ((64, 64), (100, 1000), (8, 16)):
        tiling = Tiling.of(OFFICIAL, height, width)
        assert (tiling.tile_height, tiling.tile_width) == (max(height // 8, 2) * 8, max(width // 8, 2) * 8)
        for side, overlap in ((tiling.tile_height, tiling.overlap_height), (tiling.tile_width, tiling.overlap_width)):
            assert 0 < overlap <= 0.5
            assert side * overlap % 8 == pytest.approx(0)
