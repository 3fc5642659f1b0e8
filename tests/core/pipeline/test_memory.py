"""Free memory of a device, and what a guided forward is estimated to take."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch

from cogvideox_core import VARIANTS, CogVideoXTransformer3D
from cogvideox_core.pipeline.memory import fits_in_one, forward_nbytes, free_memory

CONFIG = VARIANTS["CogVideoX-5B"].transformer
TOKENS = 226 + 13 * 30 * 45


def test_free_memory_of_a_cpu_is_a_part_of_all_memory() -> None:
    free = free_memory(torch.device("cpu"))
    assert free is not None, "this test needs /proc/meminfo"
    assert 0 < free < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_free_memory_of_a_device_that_does_not_say_is_unknown() -> None:
    assert free_memory(torch.device("meta")) is None


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
