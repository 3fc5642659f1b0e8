"""The convolution of a doubled picture, computed without doubling it."""

from __future__ import annotations

import pytest
import torch
from torch.nn import Conv2d as PlainConv2d
from torch.nn import functional as F

from cogvideox_core.kernels.layers import Conv2d
from cogvideox_core.models.vae.upsample_conv import conv_doubled
from tests.support.parity import assert_parity


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 2e-6), (torch.bfloat16, 0.0)])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (4, 3), (5, 8)])
def test_it_is_the_convolution_of_the_doubled_picture(
    dtype: torch.dtype, bound: float, height: int, width: int
) -> None:
    torch.manual_seed(0)
    layer = Conv2d(6, 4, 3, padding=1).to(dtype).requires_grad_(False)
    x = torch.randn(3, 6, height, width).to(dtype)
    wanted = layer(F.interpolate(x, scale_factor=2.0, mode="nearest"))
    found, bias = conv_doubled(layer, x)
    assert bias is None
    assert_parity(found.float(), wanted.float(), bound, f"{height} x {width}, {dtype}")


def test_another_kind_of_layer_is_called() -> None:
    layer, x = PlainConv2d(2, 3, 3, padding=1), torch.ones(1, 2, 3, 3)
    layer.register_forward_hook(lambda module, inputs, output: torch.add(output, 1))
    found, _ = conv_doubled(layer, x)
    assert torch.equal(found, layer(F.interpolate(x, scale_factor=2.0, mode="nearest")))
