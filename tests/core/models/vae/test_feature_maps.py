"""Feature maps in strips: reading, adding and freeing rows, and the statistics of a whole from its parts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import Conv2d, GroupNorm
from torch.nn import functional as F

from cogvideox_core.models.vae import feature_maps
from cogvideox_core.models.vae.feature_maps import Activated, Band, Strips, activated, convolved
from tests.support.parity import assert_parity


def drawn(*shape: int, seed: int = 0) -> Tensor:
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return numbers.contiguous(memory_format=torch.channels_last_3d) if len(shape) == 5 else numbers


def in_strips(x: Tensor, *heights: int) -> Strips:
    return Strips(x.split(list(heights), dim=3))


def in_bands(x: Tensor, height: int, bias: Tensor | None = None) -> Iterator[Band]:
    for start in range(0, x.shape[3], height):
        stop = min(start + height, x.shape[3])
        yield Band(start, stop, x[:, :, :, start:stop].clone(), bias)


def test_rows_of_strips_are_those_of_the_map() -> None:
    x = drawn(1, 4, 2, 9, 5)
    strips = in_strips(x, 4, 3, 2)
    assert strips.shape == x.shape
    assert torch.equal(strips.whole(), x)
    for start, stop in ((0, 4), (1, 3), (2, 8), (7, 9)):
        assert torch.equal(strips.rows(start, stop), x[:, :, :, start:stop])
    assert [(first, view.shape[3]) for first, view in strips.views(2, 8)] == [(2, 2), (4, 3), (7, 1)]
    assert strips.rows(4, 6).data_ptr() == next(strips.views(4, 6))[1].data_ptr()  # within a strip nothing is copied


@pytest.mark.parametrize("bias", [False, True])
def test_bands_of_another_map_are_added(bias: bool) -> None:
    x, y = drawn(1, 4, 2, 9, 5), drawn(1, 4, 2, 9, 5, seed=1)
    b = drawn(4) if bias else None
    wanted = x + y if b is None else x + y + b.view(-1, 1, 1, 1)
    new = in_strips(x, 4, 5)
    assert_parity(new.plus(in_bands(y, 2, b)).whole(), wanted, 1e-6, "plus")
    assert torch.equal(new.whole(), x)
    new = in_strips(x.clone(), 4, 5)
    new.add(in_bands(y, 2, b))
    assert_parity(new.whole(), wanted, 1e-6, "add")


def test_strips_above_a_row_are_freed() -> None:
    strips = in_strips(drawn(1, 4, 2, 9, 5), 4, 3, 2)
    strips.free_above(6)
    assert [strip.shape[3] for strip in strips] == [3, 2]
    assert strips.rows(6, 9).shape[3] == 3
    strips.free_above(9)
    assert list(strips) == []


@pytest.mark.parametrize("frames", [4, 5])
@pytest.mark.parametrize("grad", [False, True])
def test_a_norm_with_cells_is_that_of_the_resized_modulation(frames: int, grad: bool) -> None:
    x = drawn(2, 8, frames, 6, 10).requires_grad_(grad)
    cells = (frames + 1) // 2, 3, 5
    scale, shift = drawn(2, 8, *cells, seed=1), drawn(2, 8, *cells, seed=2)
    norm = GroupNorm(4, 8)
    norm.requires_grad_(grad)
    nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(3))

    def resized(part: Tensor) -> Tensor:
        if frames % 2 == 0:
            return F.interpolate(part, size=x.shape[2:], mode="nearest")
        first, rest = (
            F.interpolate(p, size=(f, 6, 10)) for p, f in ((part[:, :, :1], 1), (part[:, :, 1:], frames - 1))
        )
        return torch.cat([first, rest], dim=2)

    wanted = F.silu(norm(x) * resized(scale) + resized(shift))
    into = torch.empty(2, 8, frames, 5, 10)
    activated(Strips(x.split([2, 4], dim=3)), norm, (scale, shift)).write(1, 6, into)
    assert_parity(into, wanted[:, :, :, 1:], 2e-6, f"{frames} frames")


def test_without_modulation_it_is_the_norm_and_silu() -> None:
    x, norm = drawn(1, 8, 3, 4, 5), GroupNorm(2, 8).requires_grad_(False)
    into = torch.empty_like(x)
    found = activated(Strips([x]), norm)
    found.write(0, 4, into)
    assert isinstance(found, Activated) and found.shape == x.shape
    assert_parity(into, F.silu(norm(x)), 2e-6, "plain")


def test_a_layer_without_kernels_adds_its_bias_itself() -> None:
    layer, x = Conv2d(3, 4, 3), torch.ones(2, 3, 6, 6)
    result, bias = convolved(layer, x)
    assert bias is None and torch.equal(result, layer(x))


@pytest.mark.parametrize(
    "shape", [(16, 9, 64, 96), (96, 1, 45, 75), (128, 4, 61, 90), (512, 2, 60, 90), (4096, 1, 6, 6)]
)
def test_statistics_of_half_a_map_of_one_value(shape: tuple[int, ...]) -> None:
    x = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0)) + 1
    x[..., shape[-1] // 2 :] = torch.linspace(-3, 3, shape[0]).view(-1, 1, 1, 1)
    exact = x.double().unflatten(1, (8, -1)).flatten(2)
    for layout in (torch.channels_last_3d, torch.contiguous_format):
        mean, variance = feature_maps._strip_moments(x.contiguous(memory_format=layout), 8)
        assert (mean - exact.mean(2)).abs().max() < 3e-6
        assert_parity(variance.double(), exact.var(2, correction=0), 2e-6, f"variance of {shape}")
