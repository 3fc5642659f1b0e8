"""What a decode and an encode take: known beforehand, and constant in the number of frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cogvideox_core import AutoencoderCausal3D, VAEConfig, VideoSize, decode_memory, encode_memory
from cogvideox_core.models.vae import bands
from cogvideox_core.models.vae.causal_conv import ConvCache
from tests.support.live_memory import LiveMemory

OFFICIAL = VAEConfig()
CONFIGS = {
    "official": OFFICIAL,
    "narrow": replace(OFFICIAL, block_out_channels=(32, 32, 64, 64), layers_per_block=1),
    "three levels": replace(OFFICIAL, block_out_channels=(64, 128, 256), layers_per_block=2),
}
CPU, META = torch.device("cpu"), torch.device("meta")  # the latter takes bands as a GPU does
MOST = 1.25  # estimate over what was counted


def vae_on_meta(config: VAEConfig, dtype: torch.dtype) -> AutoencoderCausal3D:
    return AutoencoderCausal3D(config, dtype=dtype, device="meta").requires_grad_(False)


def latents_of(size: VideoSize, config: VAEConfig, dtype: torch.dtype) -> Tensor:
    ratio = config.spatial_compression_ratio
    shape = (1, 16, -(-size.num_frames // 4), size.height // ratio, size.width // ratio)
    return torch.empty(shape, dtype=dtype, device="meta")


def counted(work: Callable[[], object]) -> int:
    with torch.no_grad(), LiveMemory() as memory:
        work()
    return memory.peak


def decode_peak(config: VAEConfig, size: VideoSize, dtype: torch.dtype) -> int:
    vae, z = vae_on_meta(config, dtype), latents_of(size, config, dtype)

    def decode() -> None:
        for _ in vae.decode_stream(z):
            pass

    return counted(decode)


def encode_peak(config: VAEConfig, size: VideoSize, dtype: torch.dtype) -> int:
    vae = vae_on_meta(config, dtype)
    video = torch.empty(1, 3, size.num_frames, size.height, size.width, dtype=dtype, device="meta")
    return counted(lambda: vae.encode(video))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("bands_of", ["ON_CPU", "ON_GPU"])
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("official", VideoSize(64, 96, 1)),
        ("official", VideoSize(64, 96, 8)),
        ("official", VideoSize(64, 96, 9)),
        ("official", VideoSize(128, 96, 16)),
        ("official", VideoSize(240, 368, 17)),
        ("narrow", VideoSize(64, 96, 17)),
        ("narrow", VideoSize(480, 720, 17)),
        ("three levels", VideoSize(256, 320, 17)),
    ],
)
def test_memory_is_known_beforehand(
    name: str, size: VideoSize, dtype: torch.dtype, bands_of: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CONFIGS[name]
    monkeypatch.setattr(bands, "ON_GPU", getattr(bands, bands_of))
    for estimate, peak in ((decode_memory, decode_peak), (encode_memory, encode_peak)):
        taken = peak(config, size, dtype)
        assert taken <= estimate(config, size, dtype, META) <= MOST * taken, estimate.__name__


@pytest.mark.parametrize("size", [VideoSize(32, 48, 9), VideoSize(64, 96, 9)])
def test_memory_is_known_on_a_cpu(size: VideoSize) -> None:
    """With real numbers, at full width."""
    torch.manual_seed(0)
    config, dtype = replace(OFFICIAL, layers_per_block=1), torch.float32
    vae = AutoencoderCausal3D(config).eval().requires_grad_(False)
    z = torch.randn(1, 16, -(-size.num_frames // 4), size.height // 8, size.width // 8)
    taken = counted(lambda: list(vae.decode_stream(z)))
    assert taken <= decode_memory(config, size, dtype, CPU) <= MOST * taken
    video = torch.rand(1, 3, size.num_frames, size.height, size.width)
    taken = counted(lambda: vae.encode(video))
    assert taken <= encode_memory(config, size, dtype, CPU) <= MOST * taken


@pytest.mark.parametrize("peak", [decode_peak, encode_peak])
def test_memory_does_not_grow_with_frames(peak: Callable[..., int]) -> None:
    short, long = (peak(CONFIGS["narrow"], VideoSize(64, 64, frames), torch.float32) for frames in (17, 57))
    moments = 2 * 4 * 32 * (57 - 17) // 4 * 8 * 8  # of what was encoded, twice while it is put together
    assert long - short <= (moments if peak is encode_peak else 0)


@pytest.mark.parametrize(("height", "width", "gib"), [(480, 720, 4.8), (768, 1360, 13.9)])
def test_a_decode_of_a_published_size_takes(height: int, width: int, gib: float) -> None:
    """In bfloat16; native ComfyUI asks for 88 GiB at 480 x 720."""
    assert decode_memory(OFFICIAL, VideoSize(height, width, 49), torch.bfloat16, META) < gib * 2**30


def test_a_cache_elsewhere_does_not_count() -> None:
    config, size = CONFIGS["narrow"], VideoSize(96, 160, 17)
    vae, z = vae_on_meta(config, torch.float32), latents_of(size, CONFIGS["narrow"], torch.float32)
    cache = ConvCache()
    vae.decoder(z[:, :, :3], cache)
    kept = sum(frames.nbytes for frames in cache.values())
    rest = decode_peak(config, size, torch.float32) - kept
    assert rest <= decode_memory(config, size, torch.float32, META, keeps_cache=False) <= 1.3 * rest
