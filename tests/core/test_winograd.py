"""Convolutions with fewer multiplications give the numbers of the direct ones."""

from __future__ import annotations

import pytest
import torch
from parity import assert_parity, relative_difference

from cogvideox_core.layers import Conv3d
from cogvideox_core.vae import winograd
from cogvideox_core.vae.winograd import fast_convolution, is_worth_it, weight_bytes

WIDE = 128


def layer(channels: int = WIDE, out_channels: int = WIDE) -> Conv3d:
    torch.manual_seed(0)
    return Conv3d(channels, out_channels, 3, padding=(0, 0, 1)).requires_grad_(False)


def padded(*shape: int) -> torch.Tensor:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    return x.contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("block", [1, 1 << 14, 1 << 20])
@pytest.mark.parametrize(
    ("shape", "channels", "out_channels"),
    [
        ((1, WIDE, 3, 4, 2), WIDE, WIDE),
        ((1, WIDE, 3, 3, 1), WIDE, WIDE),
        ((1, WIDE, 5, 7, 9), WIDE, 2 * WIDE),
        ((2, 2 * WIDE, 4, 12, 11), 2 * WIDE, WIDE),
        ((1, WIDE, 10, 9, 40), WIDE, WIDE),
    ],
)
def test_numbers(
    shape: tuple[int, ...], channels: int, out_channels: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(winograd, "_BLOCK", block)
    monkeypatch.setattr(winograd, "_ROWS", min(block, 384))
    direct, x = layer(channels, out_channels), padded(*shape)
    found, rest = fast_convolution(direct, x)(x)
    assert rest is None
    assert found.is_contiguous(memory_format=torch.channels_last_3d)
    exact = torch.nn.functional.conv3d(
        x.double(),
        direct.weight.double(),
        direct.bias.double(),
        padding=(0, 0, 1),  # type: ignore[union-attr]
    )
    assert_parity(found.double(), exact, 2e-6, str(shape))
    assert relative_difference(found.double(), exact) < 2 * relative_difference(direct(x).double(), exact)


def test_what_the_layer_itself_must_do() -> None:
    """Hooks, gradients, other number formats, and layers too narrow for it to be worth while."""
    x = padded(1, WIDE, 3, 6, 6)
    for direct, given in (
        (layer(), x.to(torch.bfloat16)),
        (layer().requires_grad_(True), x),
        (layer(64, 64), padded(1, 64, 3, 6, 6)),
    ):
        direct.to(given.dtype)
        result, _ = fast_convolution(direct, given)(given)
        assert torch.equal(result, direct(given))
    hooked = layer()
    hooked.register_forward_hook(lambda module, inputs, output: output + 1)
    result, _ = fast_convolution(hooked, x)(x)
    assert torch.equal(result, hooked(x))


def test_bytes_of_weights() -> None:
    direct, x = layer(WIDE, 2 * WIDE), padded(1, WIDE, 3, 4, 4)
    assert is_worth_it(x, 2 * WIDE, WIDE)
    assert winograd._transformed(direct.weight).nbytes == weight_bytes(2 * WIDE, WIDE)
