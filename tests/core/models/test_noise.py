"""Noise is drawn in diffusers' order, wherever it is needed."""

from __future__ import annotations

import pytest
import torch
from diffusers.utils.torch_utils import randn_tensor

from cogvideox_core.models.noise import draw, draw_latents

CPU = torch.device("cpu")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_latents_are_drawn_frame_before_channel() -> None:
    ours = draw_latents((2, 16, 3, 4, 5), seeded(1), CPU, torch.float32)
    theirs = randn_tensor((2, 3, 16, 4, 5), generator=seeded(1), device=CPU, dtype=torch.float32)
    assert torch.equal(ours, theirs.transpose(1, 2))


def test_a_generator_each_draws_one_item_each() -> None:
    ours = draw((2, 3, 4), [seeded(1), seeded(2)], CPU, torch.float32)
    assert torch.equal(ours[1:], draw((1, 3, 4), seeded(2), CPU, torch.float32))
    assert torch.equal(ours, randn_tensor((2, 3, 4), generator=[seeded(1), seeded(2)], device=CPU))


def test_another_number_of_generators_is_refused() -> None:
    with pytest.raises(ValueError, match="2 generators for a batch of 3; give one, or one per video"):
        draw((3, 4), [seeded(1), seeded(2)], CPU, torch.float32)


def test_a_cpus_generator_draws_the_same_for_every_device() -> None:
    generator = seeded(3)
    there = draw((2, 4), generator, torch.device("meta"), torch.float32)
    assert there.device.type == "meta"
    again = seeded(3)
    draw((2, 4), again, CPU, torch.float32)
    assert torch.equal(generator.get_state(), again.get_state())  # as many numbers were drawn, on the CPU


def test_without_a_generator_torchs_own_draws() -> None:
    torch.manual_seed(4)
    found = draw((2, 4), None, CPU, torch.float32)
    torch.manual_seed(4)
    assert torch.equal(found, torch.randn(2, 4))
