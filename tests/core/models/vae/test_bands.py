"""Maps by bands of rows: how many, where they are cut, and that they change nothing."""

from __future__ import annotations

import pytest
import torch

from cogvideox_core.models.vae import bands as bands_module
from cogvideox_core.models.vae.bands import ON_CPU, ON_GPU, BandLimits, bands, empty
from tests.support.parity import assert_parity
from tests.support.vae_pair import BOUND, Pair, video

CPU, META = torch.device("cpu"), torch.device("meta")  # the latter takes bands as a GPU does


def spans(*shape: int, device: torch.device = CPU, per_row: float | None = None) -> list[tuple[int, int]]:
    return list(bands(torch.Size(shape), device, per_row))


def test_bands_share_all_rows_evenly_and_begin_at_even_ones() -> None:
    for height in (1, 2, 3, 7, 45, 480):
        found = spans(1, 256, 8, height, 4096)
        assert [start for start, _ in found] == [0, *(stop for _, stop in found[:-1])]
        assert found[-1][1] == height and all(start % 2 == 0 for start, _ in found)
        heights = [stop - start for start, stop in found]
        assert max(heights) - min(heights) <= 2 + height % 2


def test_a_small_map_is_one_band_and_a_large_one_eight_or_more() -> None:
    assert spans(1, 4, 2, 30, 45) == [(0, 30)]
    row = 1 << 16  # values
    assert len(spans(1, 1, 1, 1024, row)) == 8
    assert len(spans(1, 1, 1, 1024, 64 * row)) == 1024 * 64 * row // ON_CPU.most
    assert spans(1, 1, 1, 1024, row, device=META) == [(0, 1024)]
    assert len(spans(1, 1, 1, 1024, 16 * row, device=META)) == 8 and ON_GPU.least > ON_CPU.least


def test_what_a_row_takes_while_it_is_computed_counts() -> None:
    assert len(spans(1, 1, 1, 1024, 1 << 16, per_row=1 << 20)) > len(spans(1, 1, 1, 1024, 1 << 16))


def test_an_empty_map_has_its_channels_last() -> None:
    like = torch.zeros(1, dtype=torch.bfloat16)
    made = empty((1, 4, 2, 3, 5), like)
    assert made.is_contiguous(memory_format=torch.channels_last_3d)
    assert (made.dtype, made.device, made.shape) == (torch.bfloat16, CPU, (1, 4, 2, 3, 5))
    assert empty((1, 4, 2, 3, 5), like, META).device == META


@pytest.mark.parametrize("elements", [1, 5_000, 20_000])
@pytest.mark.parametrize("frames", [1, 8, 17])
def test_bands_of_rows_give_the_numbers_of_the_whole_picture(
    small_tiles: Pair, monkeypatch: pytest.MonkeyPatch, elements: int, frames: int
) -> None:
    """Large pictures go through every layer some rows at a time; here small ones do, down to single rows."""
    model, pixels = small_tiles.ours, video(frames, 48, 40, batch=2)
    z = model.encode(pixels).mean
    whole = model.decode(z)
    largest = []
    for module in model.modules():
        if isinstance(module, torch.nn.Conv3d | torch.nn.Conv2d):
            module.register_forward_hook(lambda module, inputs, output: largest.append(inputs[0].shape[-2]))
    monkeypatch.setattr(bands_module, "ON_CPU", BandLimits(1, elements))
    assert_parity(model.encode(pixels).mean, z, BOUND, f"encoding in bands of {elements}")
    assert_parity(model.decode(z), whole, BOUND, f"decoding in bands of {elements}")
    assert max(largest) < 48 + 2
    if elements == 1:
        assert max(largest) <= 6  # a row and what lies around it
