"""The VAE stage: what a batch is, what the loss counts, and latents of one size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from cogvideox_core import load_vae
from cogvideox_core.training.autoencoder_objective import AutoencoderObjective, rescale_channels
from cogvideox_core.training.demo_world.world import make_scene, render
from cogvideox_core.training.demo_world.world_clips import WorldClips
from cogvideox_core.training.recipe import AutoencoderRecipe, parse_recipe
from tests.support.parity import assert_parity
from tests.support.training_runs import AUTOENCODER, OPTIMISATION, losses, train


def objective_of(toy: Path, **changes: Any) -> AutoencoderObjective:
    recipe = parse_recipe(AUTOENCODER | changes)
    assert isinstance(recipe, AutoencoderRecipe)
    return AutoencoderObjective(load_vae(toy / "vae", dtype=torch.float32), WorldClips(), recipe)


def test_a_batch_has_the_size_of_its_phase_and_still_frames(toy: Path) -> None:
    phases = [
        {"until": 2, "num_frames": 9, "height": 16, "width": 16, "still": 0.0},
        {"until": 4, "num_frames": 17, "height": 32, "width": 24, "still": 1.0},
    ]
    objective = objective_of(toy, phases=phases)
    video, noise = objective.batch(1, range(2, 4), 4)
    assert video.shape == (2, 3, 9, 16, 16) and noise.shape == (2, 16, 3, 2, 2)
    assert -1 <= video.min() < video.max() <= 1
    still, noise = objective.batch(2, range(1), 1)
    assert still.shape == (1, 3, 1, 32, 24) and noise.shape == (1, 16, 1, 4, 3)
    whole, alone = objective.batch(1, range(4), 4), (video, objective.batch(1, range(2, 4), 4)[1])
    assert all(torch.equal(part[2:], other) for part, other in zip(whole, alone, strict=True))


def test_the_loss_is_the_weighted_sum_of_its_terms(toy: Path) -> None:
    video, noise = objective_of(toy).batch(0, range(1), 1)
    terms = {}
    for name in ("absolute", "squared", "edges", "kl"):
        weights = {"absolute": 0.0, "squared": 0.0, "edges": 0.0, "kl": 0.0, name: 1.0}
        with torch.no_grad():
            terms[name] = objective_of(toy, weights=weights)((video, noise))["loss"]
    with torch.no_grad():
        found = objective_of(toy)((video, noise))
        vae = load_vae(toy / "vae", dtype=torch.float32)
        posterior = vae.encode(video)
        decoded = vae.decode(posterior.mean + (0.5 * posterior.logvar).exp() * noise)
    wanted = terms["absolute"] + 4 * terms["squared"] + terms["edges"] + 1e-4 * terms["kl"]
    assert found["loss"].item() == pytest.approx(wanted.item(), rel=1e-5)
    assert terms["absolute"].item() == pytest.approx((decoded - video).abs().mean().item(), rel=1e-5)
    standard = torch.distributions.Normal(0.0, 1.0)
    normal = torch.distributions.Normal(posterior.mean, (0.5 * posterior.logvar).exp())
    divergence = torch.distributions.kl_divergence(normal, standard).mean()
    assert found["kl"].item() == pytest.approx(divergence.item(), rel=1e-4)
    psnr = -10 * ((decoded - video) / 2).square().mean().log10()
    assert found["psnr"].item() == pytest.approx(psnr.item(), rel=1e-4)


def test_latent_channels_can_be_rescaled_without_a_change_of_videos(toy: Path) -> None:
    vae = load_vae(toy / "vae", dtype=torch.float32)
    factors = torch.linspace(0.2, 5, vae.config.latent_channels)
    other = load_vae(toy / "vae", dtype=torch.float32)
    other.load_state_dict(rescale_channels(vae.state_dict(), factors))
    video = torch.stack([render(make_scene(seed), 9, 32, 48) for seed in range(2)]) * 2 - 1
    wanted, found = vae.encode(video), other.encode(video)
    shape = 1, -1, 1, 1, 1
    assert_parity(found.mean, wanted.mean * factors.view(shape), 1e-5, "rescaled means")
    deviation = (0.5 * wanted.logvar).exp() * factors.view(shape)
    assert_parity((0.5 * found.logvar).exp(), deviation, 1e-5, "rescaled deviations")
    assert_parity(other.decode(found.mean), vae.decode(wanted.mean), 1e-5, "what rescaled latents show")


@pytest.mark.slow
def test_training_lowers_the_loss_and_writes_a_vae_with_channels_of_one_size(toy: Path, tmp_path: Path) -> None:
    recipe = AUTOENCODER | {"optimisation": OPTIMISATION | {"steps": 30, "log_every": 10, "save_every": 30}}
    recipe["phases"] = [{"until": 30, "num_frames": 9, "height": 16, "width": 16, "still": 0.3}]
    recipe["vae"] = {"block_out_channels": [8, 8, 8, 8], "layers_per_block": 1, "norm_num_groups": 4}
    train(recipe, tmp_path / "new", toy)
    first, *_, last = losses(tmp_path / "new")
    assert last < 0.8 * first
    vae = load_vae(tmp_path / "new" / "model" / "vae", dtype=torch.float32)
    video = torch.stack([render(make_scene(seed), 9, 32, 32) for seed in range(4)]) * 2 - 1
    latents = vae.encode(video).mean * vae.config.scaling_factor
    deviations = latents.transpose(0, 1).flatten(1).std(dim=1)
    assert 0.5 < deviations.min() and deviations.max() < 2, "channels are of different size"

    train(AUTOENCODER, tmp_path / "longer", tmp_path / "new" / "model")  # continued, over both phases
    assert (tmp_path / "longer" / "model" / "vae" / "config.json").is_file()
