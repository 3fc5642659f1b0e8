"""A diffusion stage: clips with noise as diffusers adds it, images, prompts and questions about tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import CogVideoXDDIMScheduler

from cogvideox_core.training.clips import FolderClips
from cogvideox_core.training.demo_world.world import make_scene, render
from cogvideox_core.training.recipe import parse_recipe
from cogvideox_core.training.stages import Folders, make_objective
from cogvideox_core.videos.video_files import write_video
from tests.support.checkpoints import make_checkpoint
from tests.support.parity import assert_parity
from tests.support.training_runs import DIFFUSION, LORA, OPTIMISATION, log, objective_of, train, weights


@pytest.mark.parametrize("kind", ["CogVideoX-5B", "CogVideoX-2B"])  # without and with a shift of the noise levels
def test_clips_are_noised_as_diffusers_noises_them(kind: str, tmp_path: Path) -> None:
    model = make_checkpoint(tmp_path / "model", kind)
    objective = objective_of(DIFFUSION | {"variant": kind}, model, tmp_path)
    theirs: Any = CogVideoXDDIMScheduler.from_pretrained(model / "scheduler")
    groups = objective.batch(3, range(4), 4)
    assert [tuple(group.latents.shape[2:]) for group in groups] == [(3, 4, 6), (1, 6, 6)]
    timesteps = torch.cat([group.timestep for group in groups])
    assert sorted((timesteps // 250).tolist()) == [0, 1, 2, 3]
    for group, encoded in zip(groups, objective.clips.buckets, strict=True):
        share = theirs.alphas_cumprod[group.timestep].view(-1, 1, 1, 1, 1).float()
        sample = share**0.5 * group.latents - (1 - share) ** 0.5 * group.target
        noise = (1 - share) ** 0.5 * group.latents + share**0.5 * group.target
        assert_parity(group.latents, theirs.add_noise(sample, noise, group.timestep), 1e-5, f"{kind}, noised")
        assert_parity(group.target, theirs.get_velocity(sample, noise, group.timestep), 1e-5, f"{kind}, velocity")
        assert abs(noise.mean()) < 0.1 and abs(noise.std() - 1) < 0.1
        clips = [encoded[index] for index in range(encoded.bucket.count)]
        for clean in sample:
            z = clean / objective.clips.scale
            apart = [((z - clip.mean) / clip.deviation).square().mean() for clip in clips]
            assert 0.8 < min(apart) < 1.2, "it is drawn from no clip's posterior"


@pytest.mark.parametrize(
    ("dropout", "given"),
    [({}, "first"), ({"last_image": 1.0}, "both"), ({"last_image": 1.0, "image": 1.0}, "nothing")],
)
def test_image_latents_are_at_the_frames_of_their_images(dropout: dict[str, float], given: str, tmp_path: Path) -> None:
    model = make_checkpoint(tmp_path / "model", "CogVideoX-5B-I2V")
    recipe = DIFFUSION | {"variant": "CogVideoX-5B-I2V", "buckets": [DIFFUSION["buckets"][0] | {"share": 1.0}]}
    recipe["dropout"] = {"image": 0.0, "last_image": 0.0} | dropout
    objective = objective_of(recipe, model, tmp_path)
    (group,) = objective.batch(0, range(4), 4)
    (encoded,) = objective.clips.buckets
    clips = [encoded[index] for index in range(encoded.bucket.count)]
    condition = group.latents[:, 16:] / objective.clips.image_scale
    assert not condition[:, :, 1:-1].any()
    for index, name, is_given in ((0, "first", given != "nothing"), (-1, "last", given == "both")):
        wanted = torch.stack([getattr(clip, name)[:, 0] for clip in clips])
        for frame in condition[:, :, index]:
            assert (wanted - frame).flatten(1).abs().amax(dim=1).min() < 1e-5 if is_given else not frame.any()


def test_a_batch_is_shared_out_by_the_shares_of_the_buckets(toy: Path, tmp_path: Path) -> None:
    film, still = DIFFUSION["buckets"]
    recipe = DIFFUSION | {"buckets": [film | {"share": 0.25}, still | {"share": 0.75}]}
    objective = objective_of(recipe, toy, tmp_path)
    whole = objective.batch(0, range(8), 8)
    assert [len(group.latents) for group in whole] == [2, 6]
    first, second = objective.batch(0, range(4), 8), objective.batch(0, range(4, 8), 8)
    assert [len(group.latents) for group in first] == [2, 2] and [len(group.latents) for group in second] == [4]
    for name in whole[1]._fields:
        parts = torch.cat([getattr(first[1], name), getattr(second[0], name)])
        assert torch.equal(getattr(whole[1], name), parts), name


def test_a_dropped_prompt_is_empty(toy: Path, tmp_path: Path) -> None:
    objective = objective_of(DIFFUSION | {"dropout": {"text": 1.0}}, toy, tmp_path)
    for group in objective.batch(0, range(4), 4):
        assert torch.equal(group.tokens, objective.text.tokenize([""] * len(group.tokens), 24))


def test_the_loss_is_the_error_of_v(toy: Path, tmp_path: Path) -> None:
    """Every clip counts alike, whatever its length."""
    objective = objective_of(LORA, toy, tmp_path)
    groups = objective.batch(0, range(4), 4)
    errors = []
    with torch.no_grad():
        for group in groups:
            embeds = objective.text_encoder(group.tokens)[0]
            v_pred = objective.transformer(group.latents, embeds, group.timestep)
            errors += (v_pred - group.target).square().flatten(1).mean(1).tolist()
        found = objective(groups)
    assert list(found) == ["loss"]
    assert found["loss"].item() == pytest.approx(sum(errors) / 4, rel=1e-5)


def test_clips_that_know_nothing_are_not_asked(toy: Path, tmp_path: Path) -> None:
    write_video(tmp_path / "one.mp4", render(make_scene(3), 9, 32, 48)[None], 8)
    (tmp_path / "one.txt").write_text("a star\n")
    recipe = parse_recipe(DIFFUSION | {"buckets": [DIFFUSION["buckets"][1] | {"share": 1.0}]})
    with pytest.raises(ValueError, match="FolderClips know nothing that tokens could be asked; leave out questions"):
        make_objective(recipe, FolderClips(tmp_path), Folders(toy, tmp_path, tmp_path))


def test_questions_come_after_a_block_there_is(toy: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="questions after block 3 of 2; take one from 1 to 2"):
        objective_of(DIFFUSION | {"questions": {"after_block": 3, "weight": 0.1}}, toy, tmp_path)


def test_questions_are_part_of_the_loss_and_not_of_the_model(trained: Path) -> None:
    for line in log(trained):
        assert line["loss"] == pytest.approx(line["diffusion"] + 0.1 * line["entropy"], abs=1e-5)
    assert not [name for name in weights(trained) if "answer" in name]


@pytest.mark.slow
def test_asking_teaches_the_tokens(toy: Path, tmp_path: Path) -> None:
    optimisation = OPTIMISATION | {"steps": 60, "log_every": 10, "save_every": 60, "ema_decay": 0.9}
    recipe = DIFFUSION | {"optimisation": optimisation, "questions": {"after_block": 1, "weight": 0.5}}
    train(recipe, tmp_path / "run", toy)
    first, *_, last = log(tmp_path / "run")
    assert last["entropy"] < 0.8 * first["entropy"]
