"""Causal convolutions: the past they keep, where it is kept, and the fastest way to compute them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cogvideox_core.kernels.layers import Conv3d
from cogvideox_core.models.vae import bands
from cogvideox_core.models.vae.autoencoder import AutoencoderCausal3D
from cogvideox_core.models.vae.causal_conv import CausalConv3d, ConvCache, PointwiseConv3d, fast_convolution
from cogvideox_core.models.vae.feature_maps import Strips
from tests.support.parity import assert_parity

CPU = torch.device("cpu")
WIDE = 128
LARGE = 1 << 20  # cells of the whole map, so that Winograd's algorithm is worth it


def drawn(*shape: int, seed: int = 1) -> Tensor:
    numbers = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return numbers.contiguous(memory_format=torch.channels_last_3d)


def layer(channels: int = WIDE, out_channels: int = WIDE) -> Conv3d:
    torch.manual_seed(0)
    return Conv3d(channels, out_channels, 3, padding=(0, 0, 1)).requires_grad_(False)


def causal(channels: int, out_channels: int) -> CausalConv3d:
    torch.manual_seed(0)
    return CausalConv3d(channels, out_channels, torch.nn).requires_grad_(False)


@pytest.mark.parametrize("chunks", [(5,), (3, 2), (1, 1, 1, 2)], ids=str)
@pytest.mark.parametrize("limit", [1 << 26, 100], ids=["one band", "many bands"])
def test_chunks_give_the_convolution_of_the_whole_clip(
    chunks: tuple[int, ...], limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bands, "ON_CPU", bands.BandLimits(1, limit))
    conv, x = causal(4, 6), drawn(2, 4, 5, 8, 7)
    past = torch.cat([x[:, :, :1]] * 2 + [x], dim=2)  # the first frame twice
    wanted = F.conv3d(past, conv.conv.weight, conv.conv.bias, padding=(0, 1, 1))
    cache = ConvCache()
    found = [conv(Strips([chunk]), cache).whole() for chunk in x.split(list(chunks), dim=2)]
    assert_parity(torch.cat(found, dim=2), wanted, 1e-6, f"{chunks}")
    (kept,) = cache.values()
    assert torch.equal(kept, past[:, :, -2:])


def test_a_cache_is_read_back_in_order() -> None:
    cache, frames = ConvCache(), drawn(1, 2, 2, 6, 3)
    kept = torch.empty_like(frames)
    cache.store(frames, kept)
    assert torch.equal(kept, frames)
    parts = kept.split(2, dim=3)
    for part, write in zip(parts, cache.fetch(parts, CPU), strict=True):
        into = torch.empty_like(part)
        write(into)
        assert torch.equal(into, part)


def test_a_pointwise_convolution_has_the_published_name() -> None:
    pointwise = PointwiseConv3d(4, 6, torch.nn)
    assert set(pointwise.state_dict()) == {"conv.weight", "conv.bias"}
    assert pointwise(drawn(1, 4, 2, 3, 3)).shape == (1, 6, 2, 3, 3)


def test_what_is_carried_may_wait_elsewhere(vae: AutoencoderCausal3D) -> None:
    z = torch.randn(1, 16, 5, 4, 6)
    assert torch.equal(torch.cat(list(vae.decode_stream(z, cache_device=CPU)), dim=2), vae.decode(z))
    elsewhere = (
        AutoencoderCausal3D(vae.config, device="meta")
        .requires_grad_(False)
        .decode_stream(z.to("meta"), cache_device=CPU)
    )
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta"):  # to the CPU, which is where it goes
        next(elsewhere)


@pytest.mark.gpu
def test_what_a_gpu_keeps_in_main_memory_changes_nothing(
    vae: AutoencoderCausal3D, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bands, "ON_GPU", bands.BandLimits(1, 1 << 14))  # many bands
    device = torch.device("cuda")
    on_gpu = copy.deepcopy(vae).to(device)
    for _ in range(3):
        z = torch.randn(1, 16, 7, 10, 14, device=device)
        assert torch.equal(on_gpu.decode(z, cache_device=CPU), on_gpu.decode(z))
        video = torch.rand(1, 3, 25, 80, 112, device=device)
        assert torch.equal(on_gpu.encode(video, cache_device=CPU).mean, on_gpu.encode(video).mean)


# --- The fastest way ---------------------------------------------------------------------------------------------


def test_what_the_layer_itself_must_do() -> None:
    """Hooks, gradients, other number formats."""
    x = drawn(1, WIDE, 4, 6, 6)
    hooked = layer()
    hooked.register_forward_hook(lambda module, inputs, output: torch.add(output, 1))
    for direct, given in ((layer(), x.to(torch.bfloat16)), (layer().requires_grad_(True), x), (hooked, x)):
        direct.to(given.dtype)
        result, _ = fast_convolution(direct, given, LARGE)(given)
        assert torch.equal(result, direct(given))


@pytest.mark.parametrize("out_channels", [3, WIDE])
@pytest.mark.parametrize("rows", [1, 4, 14, 15])
def test_small_maps_and_bands_of_few_rows_go_to_onednn(rows: int, out_channels: int) -> None:
    """PyTorch leaves it aside for them."""
    direct, band = layer(WIDE, out_channels), drawn(1, WIDE, 4, rows + 2, 24)
    found, _ = fast_convolution(direct, band, 2 * rows * 24)(band)
    onednn_attention = torch.mkldnn_convolution(band, direct.weight, direct.bias, (0, 0, 1), (1, 1, 1), (1, 1, 1), 1)
    assert torch.equal(found, onednn_attention)
