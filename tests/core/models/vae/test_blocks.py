"""The parts of encoder and decoder, each against what it computes on a whole map."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cogvideox_core.kernels import layers
from cogvideox_core.models.config import VAEConfig
from cogvideox_core.models.vae.blocks import Downsample3D, ResnetBlock3D, Upsample3D, residual_stage
from cogvideox_core.models.vae.causal_conv import ConvCache
from cogvideox_core.models.vae.feature_maps import Strips
from tests.support.parity import assert_parity

CONFIG = VAEConfig(latent_channels=4, norm_num_groups=2)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def in_strips(x: Tensor) -> Strips:
    """As a layer hands it on: several strips, of memory of their own."""
    return Strips([part.clone() for part in x.split(3, dim=3)])


def frames_apart(x: Tensor, function) -> Tensor:
    """A function of pairs of frames, with the first frame of an odd number on its own."""
    single = x.shape[2] % 2 if x.shape[2] > 1 else x.shape[2]
    return torch.cat([x[:, :, :single], *([function(x[:, :, single:])] if x.shape[2] > single else [])], dim=2)


@pytest.mark.parametrize("frames", [1, 2, 5, 8])
@pytest.mark.parametrize("halve_time", [False, True])
def test_downsampling_averages_frames_then_strides(frames: int, halve_time: bool) -> None:
    torch.manual_seed(0)
    down = Downsample3D(4, layers, halve_time=halve_time).requires_grad_(False)
    x = drawn(2, 4, frames, 8, 6)
    averaged = frames_apart(x, lambda part: part.unflatten(2, (-1, 2)).mean(3)) if halve_time else x
    count = averaged.shape[2]
    flat = F.pad(averaged.transpose(1, 2).flatten(0, 1), (0, 1, 0, 1))
    wanted = down.conv(flat).unflatten(0, (2, count)).transpose(1, 2)
    assert_parity(down(in_strips(x)).whole(), wanted, 1e-6, f"down {frames}")


@pytest.mark.parametrize("frames", [1, 2, 3, 4])
@pytest.mark.parametrize("double_time", [False, True])
def test_upsampling_doubles_frames_but_the_first(frames: int, double_time: bool) -> None:
    torch.manual_seed(0)
    up = Upsample3D(4, layers, double_time=double_time).requires_grad_(False)
    x = drawn(2, 4, frames, 5, 6)
    doubled = frames_apart(x, lambda part: part.repeat_interleave(2, dim=2)) if double_time else x
    if double_time and frames % 2 == 0:
        doubled = x.repeat_interleave(2, dim=2)
    flat = F.interpolate(doubled.transpose(1, 2).flatten(0, 1), scale_factor=2.0, mode="nearest")
    wanted = up.conv(flat).unflatten(0, (2, doubled.shape[2])).transpose(1, 2)
    assert_parity(up(in_strips(x)).whole(), wanted, 2e-6, f"up {frames}")


@pytest.mark.parametrize("out_channels", [4, 8])
def test_a_residual_block_gives_the_same_in_training_and_inference(out_channels: int) -> None:
    torch.manual_seed(0)
    block = ResnetBlock3D(4, out_channels, CONFIG, layers, conditioned=True)
    x, z = drawn(1, 4, 5, 8, 6), drawn(1, 4, 3, 4, 3, seed=1)
    trained = block(in_strips(x.requires_grad_()), ConvCache(), z).whole()
    trained.sum().backward()
    assert x.grad is not None and x.grad.abs().max() > 0
    with torch.no_grad():
        given = in_strips(x.detach())
        strips = list(given)
        found = block.requires_grad_(False)(given, ConvCache(), z)
    assert_parity(found.whole(), trained, 2e-6, f"to {out_channels}")
    # Without a shortcut of its own the result is added to what was given; with one, that is freed.
    assert [kept is strip for kept, strip in zip(found, strips, strict=False)] == [out_channels == 4] * len(list(found))
    assert len(list(given)) == (len(strips) if out_channels == 4 else 0)


def test_the_first_block_of_a_stage_changes_the_width() -> None:
    stage: Any = residual_stage(3, 4, 8, CONFIG, layers, conditioned=False)
    assert [(block.conv1.channels, block.conv_shortcut is None) for block in stage.resnets] == [
        ((4, 8), False),
        ((8, 8), True),
        ((8, 8), True),
    ]
