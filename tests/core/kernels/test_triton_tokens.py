"""The Triton kernels give the numbers of PyTorch: on a GPU where there is one, else in Triton's interpreter."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from cogvideox_core.kernels.layers import LayerNorm
from cogvideox_core.models.transformer import block_ops as fused
from tests.support.parity import assert_parity

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TEXT, VIDEO = 5, 11
DTYPES = [(torch.float32, 2e-6), (torch.bfloat16, 2e-2)]


@pytest.fixture(scope="module")
def kernels() -> ModuleType:
    pytest.importorskip("triton", reason="no Triton for this system")
    from cogvideox_core.kernels import triton_tokens as tokens

    return tokens


def drawn(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(DEVICE, dtype)


def norm(width: int, dtype: torch.dtype) -> LayerNorm:
    made = LayerNorm(width, eps=1e-5, device=DEVICE).requires_grad_(False)
    made.weight.copy_(drawn(width) + 1)
    made.bias.copy_(drawn(width + 1)[1:])
    return made.to(dtype)


def in_pytorch(layer: nn.Module) -> nn.Module:
    """The layer without its offer of weights, so that it is called."""
    return nn.Sequential(layer)


@pytest.mark.parametrize(("dtype", "bound"), DTYPES)
@pytest.mark.parametrize("width", [128, 192])
@torch.no_grad()
def test_norms_with_their_modulation(kernels: ModuleType, width: int, dtype: torch.dtype, bound: float) -> None:
    layer, text, video = norm(width, dtype), drawn(2, TEXT, width, dtype=dtype), drawn(2, VIDEO, width, dtype=dtype)
    modulation = drawn(2, 6 * width, dtype=dtype)
    ours = kernels.modulated(text, video, layer.weight, layer.bias, modulation, layer.eps)
    assert_parity(ours, fused.modulated(in_pytorch(layer), text, video, modulation), bound, f"{width} {dtype}")


@pytest.mark.parametrize(("dtype", "bound"), DTYPES)
@torch.no_grad()
def test_gated_residuals(kernels: ModuleType, dtype: torch.dtype, bound: float) -> None:
    text, video = drawn(2, TEXT, 192, dtype=dtype), drawn(2, VIDEO, 192, dtype=dtype)
    tokens, modulation = drawn(2, TEXT + VIDEO, 192, dtype=dtype), drawn(2, 6 * 192, dtype=dtype)
    kept = text.clone(), video.clone()
    ours = kernels.gated(text, video, tokens, modulation)
    expected = fused.gated(text.cpu(), video.cpu(), tokens.cpu(), modulation.cpu())
    for name, found, wanted, before, now in zip(("text", "video"), ours, expected, kept, (text, video), strict=True):
        assert_parity(found.cpu(), wanted, bound, f"{name} {dtype}")
        assert torch.equal(before, now)


@pytest.mark.parametrize(("dtype", "bound"), DTYPES)
@pytest.mark.parametrize("turned", [True, False])
@torch.no_grad()
def test_heads_normed_and_turned(kernels: ModuleType, turned: bool, dtype: torch.dtype, bound: float) -> None:
    layer, x = norm(64, dtype), drawn(2, TEXT + VIDEO, 3, 64, dtype=dtype)
    angles = drawn(TEXT + VIDEO, 32)
    rotary = (angles.cos(), angles.sin()) if turned else None
    expected = fused.normed_heads(in_pytorch(layer), x.clone(), rotary)
    ours = kernels.normed_heads(x.clone(), layer.weight, layer.bias, rotary, layer.eps)
    assert_parity(ours, expected, bound, f"turned {turned}, {dtype}")


def test_a_norm_offers_its_weights_only_where_nobody_would_miss_a_call() -> None:
    layer, x = norm(64, torch.float32), drawn(2, 64)
    assert layer.kernel_weights(x) is not None
    assert layer.kernel_weights(x.to("meta")) is None
    layer.requires_grad_(True)
    assert layer.kernel_weights(x) is None
    layer.requires_grad_(False).register_forward_hook(lambda module, given, out: out)
    assert layer.kernel_weights(x) is None


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="no second GPU")
@torch.no_grad()
def test_kernels_run_where_their_tensors_are(kernels: ModuleType) -> None:
    """Triton takes the current GPU, which is the first one."""
    text, video, tokens = drawn(2, TEXT, 192), drawn(2, VIDEO, 192), drawn(2, TEXT + VIDEO, 192)
    modulation = drawn(2, 6 * 192)
    here = kernels.gated(text.clone(), video.clone(), tokens, modulation)
    there = kernels.gated(*(part.to(device="cuda:1") for part in (text, video, tokens, modulation)))
    for ours, expected in zip(there, here, strict=True):
        assert torch.equal(ours.cpu(), expected.cpu())
