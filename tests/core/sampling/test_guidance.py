"""Classifier-free guidance, and the dynamic scale with its published values."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cogvideox_core import VARIANTS, CogVideoXTransformer3D
from cogvideox_core.sampling.guidance import dynamic_scale, fits_in_one, forward_nbytes, guide

CONFIG = VARIANTS["CogVideoX-5B"].transformer
TOKENS = 226 + 13 * 30 * 45


def test_guidance_moves_away_from_the_unconditional_prediction() -> None:
    unconditional, conditional = torch.tensor([1.0, 2.0]), torch.tensor([2.0, 0.0])
    assert guide(unconditional, conditional, 6.0).tolist() == [7.0, -10.0]
    assert guide(unconditional, conditional, 1.0).tolist() == [2.0, 0.0]
    assert guide(unconditional, conditional, 0.0).tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("timestep", "scale"),
    [
        (999, 2.291),
        (979, 2.544),
        (959, 6.974),
        (939, 6.420),
        (919, 2.788),
        (499, 1.521),
        (99, 6.864),
        (79, 1.064),
        (59, 1.000),
        (39, 1.000),
        (19, 1.123),
    ],
)
def test_the_dynamic_scale_has_the_published_values(timestep: int, scale: float) -> None:
    """The raw timestep stands where a step index was meant, so the scale jumps about."""
    got = dynamic_scale(6.0, timestep=timestep, step_index=0, num_inference_steps=50)
    assert got == pytest.approx(scale, abs=6e-4)


def test_the_dynamic_scale_by_step_falls_smoothly() -> None:
    scales = [
        dynamic_scale(6.0, timestep=999, step_index=index, num_inference_steps=50, by="step") for index in range(50)
    ]
    assert scales[0] == pytest.approx(7.0)
    assert scales == sorted(scales, reverse=True)
    assert scales[-1] == pytest.approx(1.0, abs=1e-6)


def test_a_batch_of_both_halves_is_estimated_and_taken_to_fit_where_no_gpu_tells() -> None:
    one, two = (forward_nbytes(CONFIG, TOKENS, batch, torch.bfloat16) / 2**30 for batch in (1, 2))
    assert (round(one, 2), round(two, 2)) == (1.22, 2.44)
    assert fits_in_one(CONFIG, 10**9, 2, torch.bfloat16, torch.device("cpu"))


@pytest.mark.gpu
@torch.no_grad()
def test_the_estimate_is_what_a_forward_takes_on_a_gpu() -> None:
    cuda = torch.device("cuda")
    assert fits_in_one(CONFIG, TOKENS, 1, torch.bfloat16, cuda)
    assert not fits_in_one(CONFIG, 10**9, 2, torch.bfloat16, cuda)
    model = CogVideoXTransformer3D(replace(CONFIG, num_layers=1), dtype=torch.bfloat16, device=cuda)
    latents = torch.zeros(2, 16, 13, 60, 90, dtype=torch.bfloat16, device=cuda)
    embeds = torch.zeros(2, 226, CONFIG.text_embed_dim, dtype=torch.bfloat16, device=cuda)
    before = torch.cuda.memory_allocated(cuda)
    torch.cuda.reset_peak_memory_stats(cuda)
    model(latents, embeds, torch.tensor([500, 500], device=cuda))
    taken = torch.cuda.max_memory_allocated(cuda) - before
    estimate = forward_nbytes(CONFIG, TOKENS, 2, torch.bfloat16)
    print(f"a guided forward takes {taken / 2**30:.2f} GiB, estimated {estimate / 2**30:.2f}")
    assert 0.5 * estimate < taken <= estimate
