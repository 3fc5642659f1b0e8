"""Attention by oneDNN's products gives the numbers of PyTorch's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from cogvideox_core.kernels import cpu_attention
from tests.support.parity import assert_parity, relative_difference

needs_onednn = pytest.mark.skipif(not cpu_attention.is_available(), reason="no oneDNN for this processor")


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def inputs(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(3, 2, 4, 40, 16, generator=torch.Generator().manual_seed(0)).to(dtype)


@needs_onednn
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_it_is_pytorchs_own_without_a_break(dtype: torch.dtype) -> None:
    operations = []

    def note(graph: torch.fx.GraphModule, example: list[Tensor]) -> Any:
        operations.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (cpu_attention.onednn_attention if cpu_attention.is_default(q.dtype) else sdpa)(q, k, v)

    q, k, v = torch.randn(3, 1, 2, 800, 16).to(dtype)
    compiled: Any = torch.compile(attend, backend=note, fullgraph=True)
    assert_parity(compiled(q, k, v), sdpa(q, k, v), 0.0, f"compiled in {dtype}")
    assert any("scaled_dot_product" in name for name in operations)
    assert not any("mkldnn" in name for name in operations)


@needs_onednn
@pytest.mark.parametrize("converts", [True, False], ids=["bfloat16 products", "float32 products"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("length", "head_dim"), [(768, 64), (1025, 32), (1500, 64), (2018, 64)])
def test_onednns_numbers(
    length: int, head_dim: int, dtype: torch.dtype, converts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As near to float64 as PyTorch's own; heads in the order a model has them in."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: converts, raising=False)
    generator = torch.Generator().manual_seed(length)
    q, k, v = (3 * torch.randn(3, 2, length, 2, head_dim, generator=generator)).to(dtype).transpose(2, 3)
    exact, of_pytorch = sdpa(q.double(), k.double(), v.double()), sdpa(q, k, v)
    found = cpu_attention.onednn_attention(q, k, v)
    assert found.dtype == dtype and found.is_contiguous() and not torch.equal(found, of_pytorch)
    bound = 2 * relative_difference(of_pytorch.double(), exact)
    assert_parity(found.double(), exact, bound, f"attention of {length} tokens in {dtype}")


@needs_onednn
def test_onednns_takes_fewer_queries_than_keys() -> None:
    q, k, v = torch.randn(1, 2, 800, 16), torch.randn(1, 2, 1300, 16), torch.randn(1, 2, 1300, 16)
    assert_parity(cpu_attention.onednn_attention(q, k, v), sdpa(q, k, v), 2e-6, "fewer queries")


def test_onednns_leaves_to_pytorch_what_it_does_not_do() -> None:
    short, wide = inputs(), torch.randn(3, 1, 1, 800, 16, dtype=torch.float64)
    wanting = torch.randn(3, 1, 1, 800, 16).requires_grad_()
    for q, k, v in (short, wide, wanting):
        assert torch.equal(cpu_attention.onednn_attention(q, k, v), sdpa(q, k, v))
    cpu_attention.onednn_attention(*wanting).sum().backward()
    assert wanting.grad is not None


@needs_onednn
def test_it_is_the_default_by_dtype_and_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    assert [cpu_attention.is_default(dtype) for dtype in (torch.float32, torch.bfloat16, torch.float64)] == [
        True,
        True,
        False,
    ]
    monkeypatch.setattr(cpu_attention, "has_onednn_linear", lambda: False)
    assert not cpu_attention.is_available() and not cpu_attention.is_default(torch.float32)
