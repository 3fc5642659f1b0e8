"""What the stages of training teach: the VAE, the text encoder, the questions asked of tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from cogvideox_core import load_vae
from cogvideox_core.training.autoencoder import rescale_channels
from cogvideox_core.training.clips import FolderClips
from cogvideox_core.training.demo_world.clips import WorldClips
from cogvideox_core.training.demo_world.world import COLOURS, SHAPES, _background, make_scene, render, tracks
from cogvideox_core.training.latents import Bucket, EncodedBucket, encode_bucket
from cogvideox_core.training.recipe import parse_recipe
from cogvideox_core.training.stages import Places, make_objective
from cogvideox_core.videos.video_io import write_video
from tests.support.parity import assert_parity, relative_difference
from tests.support.training_runs import AUTOENCODER, DIFFUSION, OPTIMISATION, losses, train, weights


def test_autoencoder_training_lowers_the_loss_and_writes_a_vae(toy: Path, tmp_path: Path) -> None:
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

    train(AUTOENCODER, tmp_path / "longer", tmp_path / "new" / "model")  # trained on, over both phases
    assert (tmp_path / "longer" / "model" / "vae" / "config.json").is_file()


TEXT = {
    "stage": "text",
    "text_encoder": {"vocab_size": 400, "d_model": 48, "d_kv": 16, "num_heads": 3, "d_ff": 64, "num_layers": 2},
    "text_tokens": [24, 40],
    "optimisation": OPTIMISATION | {"batch_size": 48, "learning_rate": 5e-3, "muon_learning_rate": 1e-2},
}


def test_every_token_learns_what_the_caption_says(toy: Path, tmp_path: Path) -> None:
    plan = TEXT["optimisation"] | {"steps": 200, "log_every": 50, "save_every": 200, "ema_decay": 0.9}
    train(TEXT | {"optimisation": plan, "dropout": 0.0}, tmp_path / "text", toy)
    first, *_, last = losses(tmp_path / "text")
    assert last < 0.8 * first
    model = tmp_path / "text" / "model"
    assert sorted(part.name for part in model.iterdir()) == ["text_encoder", "tokenizer", "vae"]

    from cogvideox_core.weights.t5 import load_text_encoder, load_tokenizer

    encoder = load_text_encoder(model / "text_encoder", dtype=torch.float32).model
    tokenizer = load_tokenizer(model / "tokenizer", encoder.config.vocab_size)
    ids = tokenizer(["a red ball", "a blue ball"], padding="max_length", max_length=40, return_tensors="pt").input_ids
    red, blue = encoder(ids)[0]
    assert ids[0, -1] == ids[1, -1] == tokenizer.pad_token_id
    assert relative_difference(red[-1], blue[-1]) > 0.05, "the last padding has not heard of the colour"


def test_questions_have_answers_to_choose_from() -> None:
    clips = WorldClips()
    asked = {name: set(choices) for name, choices in clips.questions.items()}
    heard: dict[str, set[str]] = {name: set() for name in asked}
    for index in range(1500):
        answers = clips.answers(index)
        assert answers.keys() == asked.keys()
        for thing in make_scene(index).things:
            assert [answers[f"{thing.shape}, {what}"] for what in ("colour", "motion", "size")] == [
                thing.colour,
                thing.motion,
                thing.size,
            ]
        for name, answer in answers.items():
            heard[name].add(answer)
    assert heard == asked


def test_tokens_are_asked_where_the_nearest_object_is() -> None:
    """Checked against the pixels: their centre of mass is the middle of all these shapes."""
    clips, grid = WorldClips(), (3, 6, 8)
    names = list(clips.token_questions)
    rows, columns = (torch.arange(48) + 0.5)[:, None], (torch.arange(64) + 0.5)[None, :]
    seen = 0
    for index in range(60):
        scene = make_scene(index)
        if len(scene.things) > 1:
            continue
        seen += 1
        answers = dict(zip(names, clips.token_answers(index, 9, 48, 64, grid), strict=True))
        assert all(0 <= answers[name].min() and answers[name].max() < clips.token_questions[name] for name in names)
        assert (answers["shape"] == SHAPES.index(scene.things[0].shape)).all()
        assert (answers["colour"] == list(COLOURS).index(scene.things[0].colour)).all()
        video = render(scene, 9, 48, 64)
        share = (video - _background(scene, 48)[:, None, :, None]).abs().sum(dim=0)
        share = (share > 0.15).float()
        for token, frame in enumerate((0, 4, 8)):
            weight = share[frame] / share[frame].sum()
            x, y = (weight * columns).sum().item() / 4, (weight * rows).sum().item() / 4  # in cells of 4 pixels
            for row in range(6):
                for column in range(8):
                    place = token, row, column
                    for name, away in (("column", x - 2 * column - 1), ("row", y - 2 * row - 1)):
                        assert abs(answers[name][place] - 11 - max(-11, min(11, away))) < 0.8, index
        if scene.things[0].motion in ("growing", "shrinking"):
            first, last = answers["radius"][0, 0, 0], answers["radius"][2, 0, 0]
            assert (first < last) == (scene.things[0].motion == "growing") and first != last
    assert seen > 40


def test_of_two_objects_the_nearer_one_is_asked_about() -> None:
    clips = WorldClips()
    pairs = [index for index in range(200) if len(make_scene(index).things) == 2]
    for index in pairs:
        scene = make_scene(index)
        shapes = clips.token_answers(index, 1, 96, 96, (1, 12, 12))[0, 0]
        for thing, ((x, y, _),) in zip(scene.things, tracks(scene, 1, 96, 96), strict=True):
            assert shapes[int(12 * y), int(12 * x)] == SHAPES.index(thing.shape)
    assert len(pairs) > 10


def test_asking_teaches_the_tokens_and_is_no_part_of_the_model(toy: Path, tmp_path: Path) -> None:
    plan = OPTIMISATION | {"steps": 60, "log_every": 10, "save_every": 60, "ema_decay": 0.9}
    recipe = DIFFUSION | {"optimisation": plan, "questions": {"after_block": 1, "weight": 0.5}}
    train(recipe, tmp_path / "run", toy)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    for line in lines:
        assert line["loss"] == pytest.approx(line["diffusion"] + 0.5 * line["entropy"], abs=1e-5)
    assert lines[-1]["entropy"] < 0.8 * lines[0]["entropy"]
    assert not [name for name in weights(tmp_path / "run") if "answer" in name]


def test_clips_that_know_nothing_are_not_asked(toy: Path, tmp_path: Path) -> None:
    write_video(tmp_path / "one.mp4", render(make_scene(3), 9, 64, 96)[None], 8)
    (tmp_path / "one.txt").write_text("a star\n")
    with pytest.raises(ValueError, match="FolderClips know nothing that tokens could be asked; leave out questions"):
        make_objective(parse_recipe(DIFFUSION), FolderClips(tmp_path), Places(toy, tmp_path, tmp_path))


def test_clips_without_answers_teach_no_text_encoder(toy: Path, tmp_path: Path) -> None:
    write_video(tmp_path / "one.mp4", render(make_scene(3), 9, 64, 96)[None], 8)
    (tmp_path / "one.txt").write_text("a star\n")
    recipe = parse_recipe({name: value for name, value in TEXT.items() if name != "text_encoder"})
    with pytest.raises(ValueError, match="FolderClips know no answers to learn from; start from a model with a text"):
        make_objective(recipe, FolderClips(tmp_path), Places(toy, tmp_path, tmp_path))


def test_latent_channels_can_be_rescaled_without_the_videos_noticing(toy: Path) -> None:
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


def test_clips_encoded_by_another_vae_are_refused(toy: Path, tmp_path: Path) -> None:
    vae, bucket = load_vae(toy / "vae", dtype=torch.float32), Bucket(9, 16, 24, count=3, first=5)
    encode_bucket(vae, WorldClips(), bucket, tmp_path)
    encoded = EncodedBucket(bucket, tmp_path)
    video = render(make_scene(7), 9, 16, 24)[None] * 2 - 1
    posterior = vae.encode(video)
    assert_parity(encoded[2].mean, posterior.mean[0], 1e-3, "the mean of an encoded clip")
    assert_parity(encoded[2].deviation, posterior.logvar.mul(0.5).exp()[0], 1e-3, "its deviation")
    for name, frame in (("first", 0), ("last", -1)):
        alone = vae.encode(video[:, :, frame].unsqueeze(2)).mean[0]
        assert 0 < relative_difference(getattr(encoded[2], name), alone) < 0.3, (
            f"{name} is its picture with noise on it"
        )
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    encode_bucket(vae, WorldClips(), bucket, tmp_path)
    assert files == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    with torch.no_grad():
        next(vae.parameters()).mul_(1.01)
    with pytest.raises(ValueError, match=r"9x16x24 holds clips encoded otherwise \(different: vae\)"):
        encode_bucket(vae, WorldClips(), bucket, tmp_path)
