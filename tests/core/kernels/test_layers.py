"""The layers models are built of give torch.nn's numbers."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cogvideox_core.kernels import layers
from tests.support.parity import assert_parity


def layer(dtype: torch.dtype, *, bias: bool = True) -> layers.Linear:
    torch.manual_seed(0)
    return layers.Linear(96, 200, bias=bias, dtype=dtype).requires_grad_(False)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2), (torch.float64, 1e-12)])
def test_a_linear_layer_and_its_gelu_give_pytorchs_numbers(dtype: torch.dtype, bound: float, bias: bool) -> None:
    linear, x = layer(dtype, bias=bias), torch.randn(3, 50, 96).to(dtype)
    wanted = F.linear(x, linear.weight, linear.bias)
    assert_parity(linear(x), wanted, bound, f"linear {dtype}")
    assert_parity(layers.linear_gelu(linear, x), F.gelu(wanted, approximate="tanh"), bound, f"gelu {dtype}")
    assert linear(x).dtype == layers.linear_gelu(linear, x).dtype == dtype


def test_rows_that_do_not_lie_behind_each_other_are_taken() -> None:
    linear, x = layer(torch.float32), torch.randn(96, 50).t()
    assert_parity(linear(x), F.linear(x, linear.weight, linear.bias), 1e-6, "transposed")


def test_gradients_flow() -> None:
    linear, x = layers.Linear(8, 8), torch.randn(4, 8, requires_grad=True)
    layers.linear_gelu(linear, linear(x)).sum().backward()
    assert x.grad is not None and linear.weight.grad is not None


def test_a_hook_on_the_layer_sees_the_result_before_the_gelu() -> None:
    linear, x = layer(torch.float32), torch.randn(5, 96)
    plain = linear(x)
    linear.register_forward_hook(lambda module, given, out: torch.add(out, 1))
    assert_parity(layers.linear_gelu(linear, x), F.gelu(plain + 1, approximate="tanh"), 1e-6, "with a hook")


def test_other_layers_are_called_as_they_are() -> None:
    class Doubled(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(input)

    torch.manual_seed(0)
    linear, x = Doubled(96, 200), torch.randn(5, 96)
    assert torch.equal(layers.linear_gelu(linear, x), F.gelu(linear(x), approximate="tanh"))
