"""Pixels for files: known values, FFmpeg's own exact conversion, and rounding."""

from __future__ import annotations

import av
import numpy as np
import pytest
import torch
from av.filter import Graph
from av.video.format import VideoFormat
from torch import Tensor

from cogvideox_core.videos.pixels import to_bytes, to_yuv420p


def frame(height: int = 48, width: int = 64) -> Tensor:
    """Random colours, [3, H, W], of 8 bits, each on two by two pixels."""
    colours = torch.randint(0, 256, (1, 3, height // 2, width // 2), generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(colours.float() / 255, scale_factor=2)[0]


def by_ffmpeg(pixels: Tensor) -> np.ndarray:
    """FFmpeg's conversion [H, W, 3] to yuv420p, with the flags that make it exact."""
    graph = Graph()
    height, width = pixels.shape[:2]
    source = graph.add_buffer(width=width, height=height, format=VideoFormat("rgb24"), time_base=1)
    exact = graph.add("scale", "flags=area+accurate_rnd+full_chroma_inp:out_color_matrix=bt709:out_range=tv")
    layout, sink = graph.add("format", "yuv420p"), graph.add("buffersink")
    source.link_to(exact)
    exact.link_to(layout)
    layout.link_to(sink)
    graph.configure()
    graph.push(av.VideoFrame.from_ndarray(pixels.numpy(), format="rgb24"))
    return graph.pull().to_ndarray()


@pytest.mark.parametrize(
    ("rgb", "yuv"),
    [
        ((1, 1, 1), (235, 128, 128)),
        ((0, 0, 0), (16, 128, 128)),
        ((1, 0, 0), (63, 102, 240)),
        ((0, 1, 0), (173, 42, 26)),
        ((0, 0, 1), (32, 240, 118)),
    ],
)
def test_primaries_have_the_levels_of_bt709(rgb: tuple[int, ...], yuv: tuple[int, ...]) -> None:
    planes = to_yuv420p(torch.tensor(rgb)[:, None, None].expand(3, 4, 6).float())
    assert planes.shape == (6, 6)
    assert (planes[0, 0], planes[4, 0], planes[5, 0]) == yuv


def test_colours_are_those_of_ffmpeg() -> None:
    pixels = frame()
    ours, theirs = to_yuv420p(pixels).numpy().astype(int), by_ffmpeg(to_bytes(pixels)).astype(int)
    assert np.abs(ours - theirs).max() <= 1
    assert np.abs(ours - theirs).mean() < 0.1


def test_chroma_is_the_mean_of_four_pixels_and_luma_each_one_s() -> None:
    mixed = torch.zeros(3, 2, 4)
    mixed[:, 0, 0] = torch.tensor([1.0, 0.0, 0.0])
    planes = to_yuv420p(mixed).flatten().tolist()
    assert planes == [63, 16, 16, 16, 16, 16, 16, 16, *(122, 128), *(156, 128)]


def test_levels_are_rounded_and_not_cut() -> None:
    ramp = torch.linspace(0, 1, 100_000).expand(3, 2, -1)
    luma = to_yuv420p(ramp)[0].float()
    assert float((luma - (16 + 219 * ramp[0, 0])).mean().abs()) < 0.01
    assert float((to_bytes(ramp)[0, :, 0].float() - 255 * ramp[0, 0]).mean().abs()) < 0.01


def test_what_is_out_of_range_or_no_number_is_written_all_the_same() -> None:
    odd = torch.tensor([2.0, -1.0, float("nan"), float("inf")]).expand(3, 2, 4).to(torch.bfloat16)
    assert to_bytes(odd)[0, :, 0].tolist() == [255, 0, 0, 255]
    assert to_yuv420p(odd)[0].tolist() == [235, 16, 16, 235]
