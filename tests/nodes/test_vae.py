"""The VAE in the real host: ours, ComfyUI's own nodes on it, and the core give the same frames."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from cogvideox_core import CogVideoXPipeline, Tiling, VideoSize, decode_memory, encode_memory
from tests.support.graphs import (
    HEIGHT,
    LENGTH,
    WIDTH,
    loaders,
    node,
    save_latent,
    saved_latent,
    saved_tensor,
    text_to_video,
)
from tests.support.host import Host, PromptRejected
from tests.support.parity import assert_parity

KIND, CPU = "CogVideoX-5B", torch.device("cpu")
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
    ours = decoded(host, class_type="CogVideoXVAEDecode", tiling="exact")
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
    ours = encoded(host, frames, class_type="CogVideoXVAEEncode", tiling="exact")
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


# Memory: the nodes ask ComfyUI's planner for what they take, and choose by what is free.

SIZE = VideoSize(HEIGHT, WIDTH, LENGTH)
TILE = {"tile_width": 64, "tile_height": 32}


def watched(host: Host, free: int = 0, **decoder) -> tuple[torch.Tensor, list[int]]:
    """Frames of a decode node, and the bytes ComfyUI was asked to make room for; `free` bytes, or what there is."""
    graph = text_to_video(KIND, steps=2)
    graph["watched"] = node("ProbeWatchMemory", vae=["vae", 0], after=["sampler", 0], free=free)
    graph["decode"] = node(samples=["sampler", 0], vae=["watched", 0], **decoder)
    graph["frames"] = node("ProbeSaveImages", images=["decode", 0], name="watched")
    graph["asked"] = node("ProbeMemoryAsked", after=["decode", 0])
    history = host.run(graph)
    return saved_tensor(history, "frames"), history.outputs["asked"]["asked"]


@pytest.mark.parametrize("class_type", ["VAEDecode", "CogVideoXVAEDecode"])
def test_comfyui_is_asked_for_what_a_decode_takes(host: Host, core: Core, toys: dict, class_type: str) -> None:
    options: Any = {"tiling": "exact"} if class_type == "CogVideoXVAEDecode" else {}
    _, asked = watched(host, class_type=class_type, **options)
    assert asked == [decode_memory(core(KIND).vae.config, SIZE, torch.float32, CPU)]


def test_comfyui_is_asked_for_what_an_encode_takes(host: Host, core: Core, toys: dict, pictures: dict) -> None:
    graph = {
        **loaders(KIND),
        "image": node("LoadImage", image="first.png"),
        "moving": node("RepeatImageBatch", image=["image", 0], amount=LENGTH),
        "watched": node("ProbeWatchMemory", vae=["vae", 0], after=["moving", 0], free=0),
        "encode": node("VAEEncode", pixels=["moving", 0], vae=["watched", 0]),
        "asked": node("ProbeMemoryAsked", after=["encode", 0]),
    }
    width, height = pictures["first.png"].size
    expected = encode_memory(core(KIND).vae.config, VideoSize(height, width, LENGTH), torch.float32, CPU)
    assert host.run(graph).outputs["asked"]["asked"] == [expected]


@pytest.mark.parametrize("native", [False, True])
def test_comfyui_is_asked_for_one_tile(host: Host, core: Core, toys: dict, native: bool) -> None:
    config = core(KIND).vae.config
    if native:
        sizes = {"tile_size": 64, "overlap": 16, "temporal_size": 64, "temporal_overlap": 8}
        _, asked = watched(host, class_type="VAEDecodeTiled", **sizes)
    else:
        sizes = {"tile_width": 64, "tile_height": 64}
        _, asked = watched(host, class_type="CogVideoXVAEDecode", tiling="blended", **sizes)
    assert asked == [decode_memory(config, VideoSize(64, 64, LENGTH), torch.float32, CPU)]


def test_blended_tiles_of_our_node_are_those_of_the_core(host: Host, core: Core, toys: dict) -> None:
    frames = decoded(host, class_type="CogVideoXVAEDecode", tiling="blended", **TILE)
    tiling = Tiling.of(core(KIND).vae.config, height=32, width=64)
    assert (tiling.tile_height, tiling.tile_width) == (32, 64)
    assert_parity(frames, expected_frames(host, core, tiling), 1e-5, "blended VAE decode in the host")


def test_blended_encoding_of_our_node_is_that_of_the_core(host: Host, core: Core, toys: dict, pictures: dict) -> None:
    z = encoded(host, 9, class_type="CogVideoXVAEEncode", tiling="blended", **TILE)
    vae = core(KIND).vae
    pixels = torch.frombuffer(bytearray(pictures["first.png"].tobytes()), dtype=torch.uint8).float() / 255
    video = pixels.view(1, *pictures["first.png"].size[::-1], 3).permute(0, 3, 1, 2)[:, :, None] * 2 - 1
    expected = vae.encode(video.expand(-1, -1, 9, -1, -1), Tiling.of(vae.config, height=32, width=64)).mean
    assert_parity(z, expected, 1e-5, "blended VAE encode in the host")


def test_auto_is_exact_while_that_fits_and_says_when_it_is_not(host: Host, core: Core, toys: dict) -> None:
    needed = decode_memory(core(KIND).vae.config, SIZE, torch.float32, CPU)
    exact, blended = (
        decoded(host, class_type="CogVideoXVAEDecode", tiling=way, **TILE) for way in ("exact", "blended")
    )
    assert not torch.equal(exact, blended)
    sentence = "blended tiles are used"
    before = host.log_file.read_text().count(sentence)
    enough, asked = watched(host, needed, class_type="CogVideoXVAEDecode", tiling="auto", **TILE)
    assert torch.equal(enough, exact)
    assert set(asked) == {needed}
    assert host.log_file.read_text().count(sentence) == before
    little, _ = watched(host, needed - 1, class_type="CogVideoXVAEDecode", tiling="auto", **TILE)
    assert torch.equal(little, blended)
    assert host.log_file.read_text().count(sentence) == before + 1


def test_workflows_of_before_still_run(host: Host, toys: dict) -> None:
    """They say "off" where it is "exact" now, and know no sizes of tiles."""
    former = decoded(host, class_type="CogVideoXVAEDecode", tiling="off")
    assert torch.equal(former, decoded(host, class_type="CogVideoXVAEDecode", tiling="exact"))


def test_an_unknown_tiling_is_refused(host: Host, toys: dict) -> None:
    graph = text_to_video(KIND)
    graph["save"] = node("PreviewImage", images=["decode", 0])
    graph["decode"] = node("CogVideoXVAEDecode", samples=["sampler", 0], vae=["vae", 0], tiling="other")
    with pytest.raises(PromptRejected, match="tiling='other'; there are 'auto', 'exact', 'blended'"):
        host.run(graph)
