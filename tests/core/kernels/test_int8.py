"""Products of 8-bit integers: what is rounded, against the same numbers multiplied in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cogvideox_core.kernels import int8, layers
from cogvideox_core.kernels.int8 import can_multiply_int8, int8_linear, round_rows
from cogvideox_core.weights.packed_weight import quantize
from cogvideox_core.weights.quantize import Int8Linear
from tests.support.parity import assert_parity


def exact(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """What the integers stand for, multiplied in float64."""
    numbers, by_row = round_rows(x.flatten(0, -2))
    y = F.linear(numbers.double() * by_row.double(), weight.double() * scale.double())
    y = y if bias is None else y + bias.double()
    return y.unflatten(0, x.shape[:-1])


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.bfloat16, 4e-3)])
def test_a_product_is_that_of_the_rounded_numbers(dtype: torch.dtype, bound: float, with_bias: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 400, 96, generator=generator).to(dtype)  # more rows than are taken at a time
    x[0, 3] = 0
    weight = quantize(torch.randn(200, 96, generator=generator), "int8").stored
    bias = torch.randn(200, generator=generator).to(dtype) if with_bias else None
    wanted = exact(x, weight["data"], weight["scale"], bias)
    found = int8_linear(x, weight["data"], weight["scale"], bias)
    assert found.dtype == dtype
    assert_parity(found, wanted, bound, f"int8, {dtype}")
    gelu = int8_linear(x, weight["data"], weight["scale"], bias, gelu=True)
    assert_parity(gelu, F.gelu(wanted, approximate="tanh"), bound, f"int8 with GELU, {dtype}")


def test_rows_are_rounded_to_127_steps_of_their_largest() -> None:
    numbers, scale = round_rows(torch.tensor([[1.0, -2.0, 0.5, 0.004], [0.0, 0.0, 0.0, 0.0]]))
    assert numbers.tolist() == [[64, -127, 32, 0], [0, 0, 0, 0]]
    assert scale[0].item() == pytest.approx(2 / 127)


def test_what_is_not_finite_stays_so() -> None:
    weight = quantize(torch.eye(16), "int8").stored
    for bad in (float("nan"), float("inf")):
        x = torch.ones(20, 16)
        x[4, 2] = bad
        finite = int8_linear(x, weight["data"], weight["scale"], None).isfinite().all(dim=1)
        assert not finite[4] and finite[:4].all() and finite[5:].all()


def test_a_cpu_without_the_instructions_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = torch.ones(20, 16), torch.ones(8, 16, dtype=torch.int8)
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    assert not can_multiply_int8(x, weight)
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: True)
    assert can_multiply_int8(x, weight)
    with torch.enable_grad():
        assert not can_multiply_int8(x.requires_grad_(), weight)


@pytest.mark.parametrize(
    ("capability", "hip", "product", "kernels", "taken"),
    [
        ((6, 1), None, True, True, False),
        ((7, 0), None, True, True, False),
        ((7, 5), None, True, False, True),
        ((7, 5), None, False, False, False),
        ((9, 0), None, False, True, True),
        ((9, 4), "6.4", True, True, False),
    ],
    ids=["Pascal", "Volta", "Turing", "a product that fails the trial", "kernels alone", "AMD"],
)
def test_cards_that_multiply(
    capability: tuple[int, int], hip: str | None, product: bool, kernels: bool, taken: bool, monkeypatch: Any
) -> None:
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    monkeypatch.setattr(int8, "works", lambda name, device, dtype: product)
    monkeypatch.setattr(int8, "_kernels", lambda device: int8 if kernels else None)
    assert int8.multiplies_int8(torch.device("cuda")) == taken
    assert not int8.multiplies_int8(torch.device("mps"))


def test_torch_compile_takes_a_product_as_one_operation() -> None:
    """Its schema and the shapes it announces are read from the annotations, which an older PyTorch must understand."""
    weight = quantize(torch.eye(16), "int8").stored
    x = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(0))
    operations = []

    def note(graph: torch.fx.GraphModule, example: list[Tensor]) -> Any:
        operations.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph

    def product(x: Tensor) -> Tensor:
        return int8_linear(x, weight["data"], weight["scale"], None, gelu=True)

    compiled: Any = torch.compile(product, backend=note, fullgraph=True)
    assert torch.equal(compiled(x), product(x))
    assert [name for name in operations if "int8" in name] == ["cogvideox.int8_linear.default"]
    torch.library.opcheck(int8.int8_linear, (x, weight["data"], weight["scale"], None), {"gelu": True})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("rows", "columns", "tokens"), [(64, 96, 40), (3072, 768, 4036), (96, 64, 16), (60, 96, 40)])
def test_a_gpu_multiplies_the_same_integers(rows: int, columns: int, tokens: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(tokens, columns, generator=generator)
    layer = Int8Linear(columns, rows, device="meta")
    weight = quantize(torch.randn(rows, columns, generator=generator), "int8")
    bias = torch.randn(rows, generator=generator)
    for dtype, bound in ((torch.float32, 1e-5), (torch.bfloat16, 1e-2)):
        layer.weight = nn.Parameter(weight.to(device="cuda", dtype=dtype), requires_grad=False)
        layer.bias = nn.Parameter(bias.to(device="cuda", dtype=dtype), requires_grad=False)
        there = x.to(device="cuda", dtype=dtype)
        stored = weight.stored
        taken = can_multiply_int8(there, layer.weight.stored["data"])  # type: ignore[union-attr]
        assert taken == (tokens > 16 and rows % 8 == 0)
        rounded = exact(there.cpu(), stored["data"], stored["scale"], bias.to(dtype))
        decoded = F.linear(there.cpu().double(), weight.dequantize().double(), bias.to(dtype).double())
        wanted = rounded if taken else decoded
        assert_parity(layer(there).cpu(), wanted, bound, f"int8 on a GPU, {dtype}")
        gelu = F.gelu(wanted, approximate="tanh")
        assert_parity(layers.linear_gelu(layer, there).cpu(), gelu, bound, f"int8 with GELU on a GPU, {dtype}")
