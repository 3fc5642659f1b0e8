"""The short runs behind `check-weights`: ours and diffusers' from one folder, and a position table cut down."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cogvideox_core import VideoSize
from cogvideox_core.cli import short_runs
from cogvideox_core.cli.short_runs import Job, sample, sample_with_diffusers, try_once
from cogvideox_core.pipeline.folder import ModelFolder
from tests.support.parity import assert_parity

Checkpoint = Callable[..., Path]

SIZE = VideoSize(32, 48, 9)  # latents of 3 frames of 4 x 6


def job(path: Path, size: VideoSize = SIZE) -> Job:
    folder = ModelFolder.open(path)
    return Job(path, folder.transformer.config, folder.variant, size, torch.device("cpu"), torch.float32)


def embeds(width: int) -> torch.Tensor:
    return torch.randn(2, 226, width, generator=torch.Generator().manual_seed(3))


def test_a_table_is_cut_to_the_first_cells_along_each_axis(checkpoint: Checkpoint):
    asked = job(checkpoint("CogVideoX-5B-I2V"))
    assert asked.cuts_table
    table = load_file(asked.path / "transformer" / "diffusion_pytorch_model.safetensors")["patch_embed.pos_embedding"]
    cut = short_runs._corner(table, asked)
    frames, height, width = 5, 4, 6  # cells of the toy's own size, 64x96 and 17 frames
    rows = [*range(226)]
    rows += [226 + (t * height + y) * width + x for t in range(3) for y in range(2) for x in range(3)]
    assert table.shape[1] == 226 + frames * height * width
    assert torch.equal(cut, table[:, rows])


def test_both_programs_agree_at_a_size_other_than_the_tables(checkpoint: Checkpoint):
    asked = job(checkpoint("CogVideoX-5B-I2V"))
    prompts = embeds(asked.config.text_embed_dim)
    ours = sample(asked, prompts)
    reference = sample_with_diffusers(asked, prompts, ours.z)
    assert ours.latents.shape == (1, 16, 3, 4, 6) and ours.frames.shape == (1, 3, 9, 32, 48)
    assert_parity(ours.latents, reference.latents, 1e-4, "a short run's latents")
    assert_parity(ours.frames, reference.frames, 1e-4, "a short run's frames")


def test_a_run_is_the_same_again_and_leaves_the_settings_of_cudnn(checkpoint: Checkpoint):
    before = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.enabled
    asked = job(checkpoint("CogVideoX1.5-5B"))
    prompts = embeds(asked.config.text_embed_dim)
    first, second = sample(asked, prompts), sample(asked, prompts)
    assert torch.equal(first.latents, second.latents) and first.seconds > 0
    assert first.latents.shape[2] == first.z.shape[2] + 1 == 4, "a leading frame, which is not decoded"
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cudnn.enabled) == before


@pytest.mark.parametrize(("is_vae", "shape"), [(False, (1, 16, 3, 4, 6)), (True, (1, 3, 17, 32, 48))])
def test_a_component_is_used_once(checkpoint: Checkpoint, is_vae: bool, shape: tuple[int, ...]):
    asked = job(checkpoint("CogVideoX-2B"))
    made = try_once(asked._replace(path=asked.path / ("vae" if is_vae else "transformer")), is_vae)
    assert made.shape == shape and made.isfinite().all()
