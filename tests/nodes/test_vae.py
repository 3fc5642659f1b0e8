"""The VAE in the real host: ours, ComfyUI's own nodes on it, and the core give the same frames."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from graphs import LENGTH, loaders, node, save_latent, saved_latent, saved_tensor, text_to_video
from host import Host
from parity import assert_parity

from cogvideox_core import CogVideoXPipeline, Tiling

KIND = "CogVideoX-5B"
Core = Callable[[str], CogVideoXPipeline]


def decoded(host: Host, **decoder) -> torch.Tensor:
    """Frames of one sampled latent, through a decode node."""
    graph = text_to_video(KIND, steps=2)
    graph["decode"] = node(samples=["sampler", 0], vae=["vae", 0], **decoder)
    graph["frames"] = node("ProbeSaveImages", images=["decode", 0], name="decoded")
    return saved_tensor(host.run(graph), "frames")


def expected_frames(host: Host, core: Core, tiling: Tiling | None = None) -> torch.Tensor:
    z = saved_latent(host, host.run(text_to_video(KIND, steps=2)))
    frames = core(KIND).vae.decode(z, tiling)[0] / 2 + 0.5
    return frames.clamp(0, 1).permute(1, 2, 3, 0)


def test_native_vae_decode_equals_ours_and_the_core(host: Host, core: Core, toys: dict) -> None:
    ours = decoded(host, class_type="CogVideoXVAEDecode", tiling="off")
    assert torch.equal(decoded(host, class_type="VAEDecode"), ours)
    assert_parity(ours, expected_frames(host, core), 1e-5, "VAE decode in the host")


def test_native_tiled_decode_blends_like_the_reference(host: Host, core: Core, toys: dict) -> None:
    sizes = {"tile_size": 64, "overlap": 16, "temporal_size": 64, "temporal_overlap": 8}
    native = decoded(host, class_type="VAEDecodeTiled", **sizes)
    tiling = Tiling(64, 64, overlap_height=0.25, overlap_width=0.25)
    assert_parity(native, expected_frames(host, core, tiling), 1e-5, "VAE Decode (Tiled) in the host")


def encoded(host: Host, frames: int, **encoder) -> torch.Tensor:
    graph = {
        **loaders(KIND),
        "image": node("LoadImage", image="first.png"),
        "moving": node("RepeatImageBatch", image=["image", 0], amount=frames),
        "encode": node(pixels=["moving", 0], vae=["vae", 0], **encoder),
        "save": save_latent("encode"),
    }
    return saved_latent(host, host.run(graph))


@pytest.mark.parametrize("frames", [1, 9, LENGTH])
def test_native_vae_encode_equals_ours_and_the_core(
    host: Host, core: Core, toys: dict, pictures: dict, frames: int
) -> None:
    ours = encoded(host, frames, class_type="CogVideoXVAEEncode", tiling="off")
    assert torch.equal(encoded(host, frames, class_type="VAEEncode"), ours)
    pixels = torch.frombuffer(bytearray(pictures["first.png"].tobytes()), dtype=torch.uint8).float() / 255
    video = pixels.view(1, *pictures["first.png"].size[::-1], 3).permute(0, 3, 1, 2)[:, :, None] * 2 - 1
    expected = core(KIND).vae.encode(video.expand(-1, -1, frames, -1, -1)).mean
    assert_parity(ours, expected, 1e-5, f"VAE encode of {frames} frames in the host")


@pytest.mark.parametrize("frames", [8, 16])
def test_native_nodes_take_an_even_number_of_latents(host: Host, toys: dict, pictures: dict, frames: int) -> None:
    graph = {
        **loaders(KIND),
        "image": node("LoadImage", image="first.png"),
        "moving": node("RepeatImageBatch", image=["image", 0], amount=frames),
        "encode": node("VAEEncode", pixels=["moving", 0], vae=["vae", 0]),
        "decode": node("VAEDecode", samples=["encode", 0], vae=["vae", 0]),
        "frames": node("ProbeSaveImages", images=["decode", 0], name="even"),
    }
    assert len(saved_tensor(host.run(graph), "frames")) == frames
