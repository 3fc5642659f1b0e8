"""Convolutions with fewer multiplications give the numbers of the direct ones."""

from __future__ import annotations

import pytest
import torch

from cogvideox_core.kernels.layers import Conv3d
from cogvideox_core.models.vae.winograd import is_worth_it, transformed_weight, winograd_conv
from tests.support.parity import assert_parity, snr_db

WIDE = 128


def layer(channels: int = WIDE, out_channels: int = WIDE) -> Conv3d:
    torch.manual_seed(0)
    return Conv3d(channels, out_channels, 3, padding=(0, 0, 1)).requires_grad_(False)


def padded(*shape: int) -> torch.Tensor:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    return x.contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize(
    ("shape", "channels", "out_channels"),
    [
        ((1, WIDE, 3, 4, 2), WIDE, WIDE),
        ((1, WIDE, 3, 3, 1), WIDE, WIDE),
        ((1, WIDE, 4, 3, 5), WIDE, WIDE),
        ((1, WIDE, 4, 4, 1), WIDE, WIDE),
        ((1, WIDE, 5, 7, 9), WIDE, 2 * WIDE),
        ((2, 2 * WIDE, 4, 12, 11), 2 * WIDE, WIDE),
        ((1, WIDE, 10, 9, 40), WIDE, WIDE),
        ((1, WIDE, 11, 10, 17), WIDE, WIDE),
    ],
)
def test_numbers(shape: tuple[int, ...], channels: int, out_channels: int) -> None:
    """Odd and even frames and rows, one of each, several clips."""
    direct, x = layer(channels, out_channels), padded(*shape)
    bias = direct.bias
    assert bias is not None
    found = winograd_conv(x, direct.weight, bias, transformed_weight(direct.weight))
    assert found.is_contiguous(memory_format=torch.channels_last_3d)
    exact = torch.nn.functional.conv3d(x.double(), direct.weight.double(), bias.double(), padding=(0, 0, 1))
    assert_parity(found.double(), exact, 4e-6, str(shape))
    of_onednn = torch.mkldnn_convolution(x, direct.weight, bias, (0, 0, 1), (1, 1, 1), (1, 1, 1), 1)
    assert snr_db(found, exact) > snr_db(of_onednn, exact) - 3


def test_what_is_worth_it() -> None:
    x, many = padded(1, WIDE, 3, 4, 4), 1 << 20
    assert is_worth_it(x, 2 * WIDE, WIDE, many)
    assert not is_worth_it(x, 2 * WIDE, WIDE, 72)
    assert not is_worth_it(x, WIDE // 2, WIDE // 2, many)
    assert not is_worth_it(x.double(), 2 * WIDE, WIDE, many)
    assert not is_worth_it(x.to("meta"), 2 * WIDE, WIDE, many)
