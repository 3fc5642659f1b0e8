"""The Triton kernels for feature maps give the numbers of PyTorch; on a GPU, or in Triton's interpreter."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor

from cogvideox_core.models.vae import feature_maps
from cogvideox_core.models.vae.bands import empty
from cogvideox_core.models.vae.feature_maps import Activated, Strips
from tests.support.parity import assert_parity

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="module")
def kernels() -> ModuleType:
    pytest.importorskip("triton", reason="no Triton for this system")
    from cogvideox_core.kernels import triton_maps as maps

    return maps


@pytest.fixture
def in_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The maps' own arithmetic, on a GPU too."""
    monkeypatch.setattr(feature_maps, "uses_triton", lambda *tensors: False)


def drawn(*shape: int, offset: float = 0.0) -> Tensor:
    """A map whose channels lie last."""
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))) + offset
    return numbers.to(DEVICE, memory_format=torch.channels_last_3d if len(shape) == 5 else torch.contiguous_format)


@pytest.mark.parametrize("channels", [32, 128])
@pytest.mark.usefixtures("in_pytorch")
def test_statistics_of_groups(kernels: ModuleType, channels: int) -> None:
    values = drawn(2, channels, 3, 17, 9, offset=5.0)
    values[1] *= 3
    for name, ours, expected in zip(
        ("mean", "variance"), kernels.moments(values, 8), feature_maps._strip_moments(values, 8), strict=True
    ):
        assert_parity(ours, expected, 2e-6, f"{name} of {channels} channels")


@pytest.mark.parametrize(
    ("frames", "cells"),
    [(5, (3, 2, 3)), (8, (2, 2, 3)), (1, (1, 4, 1)), (3, (1, 1, 1))],
    ids=["first apart", "paired", "one frame", "one cell"],
)
@pytest.mark.usefixtures("in_pytorch")
def test_activation_by_cells(kernels: ModuleType, frames: int, cells: tuple[int, int, int]) -> None:
    values = drawn(2, 24, frames, 8, 18)
    scale, shift = drawn(2, 24, *cells), drawn(2, 24, *cells, offset=0.5)
    expected, ours = (
        empty((2, 24, frames + 2, 7, 18), values).zero_(),
        empty((2, 24, frames + 2, 7, 18), values).zero_(),
    )
    Activated(Strips([values]), scale, shift).write(2, 7, expected[:, :, 2:, 1:6])
    single = int(cells[0] > 1 and frames % 2 == 1)
    by_cell = [part.movedim(1, -1).contiguous() for part in (scale, shift)]
    kernels.activate(values[:, :, :, 2:7], *by_cell, single, (2, 8), ours[:, :, 2:, 1:6])
    assert_parity(ours, expected, 2e-6, "activation")


@pytest.mark.parametrize("add", [True, False])
def test_a_result_and_its_bias_are_put_in_place(kernels: ModuleType, add: bool) -> None:
    part, bias, into = drawn(2, 24, 3, 4, 70), drawn(24), drawn(2, 24, 7, 6, 70)
    expected = into.clone()
    expected[:, :, 1::2, 1:5] = part + bias.view(-1, 1, 1, 1) + (expected[:, :, 1::2, 1:5] if add else 0.0)
    kernels.write_with_bias(part, bias, into[:, :, 1::2, 1:5], add=add)
    assert_parity(into, expected, 1e-6, f"added {add}")
    kernels.write_with_bias(part, bias, part, add=False)
    assert_parity(part, drawn(2, 24, 3, 4, 70) + bias.view(-1, 1, 1, 1), 1e-6, "onto itself")
