"""Training: packed clips, timesteps, runs that survive a kill, many processes that are one."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import make_checkpoint
from diffusers import CogVideoXDDIMScheduler
from parity import assert_parity, relative_difference
from safetensors.torch import load_file
from torch import Tensor

from cogvideox_core import VARIANTS, CogVideoXTransformer3D, load_pipeline, load_transformer, load_vae
from cogvideox_core.demo.captions import caption
from cogvideox_core.demo.world import COLOURS, SHAPES, _background, make_scene, render, tracks
from cogvideox_core.training.autoencoder import rescale_channels
from cogvideox_core.training.clips import FolderClips, WorldClips
from cogvideox_core.training.diffusion import DiffusionObjective
from cogvideox_core.training.frame_pack import Bundle, packed_forward
from cogvideox_core.training.latents import Bucket, EncodedBucket, encode_bucket
from cogvideox_core.training.loop import Optimisation, slots_of_process
from cogvideox_core.training.recipe import RECIPES, find_recipe, parse_recipe
from cogvideox_core.training.run_folder import RunExistsError, RunFolder
from cogvideox_core.training.stages import Places, make_objective
from cogvideox_core.training.timesteps import Focus, explicit_uniform, independent
from cogvideox_core.training.tokenizer import train_tokenizer
from cogvideox_core.video_io import write_video

OPTIMISATION = {"steps": 4, "batch_size": 4, "learning_rate": 1e-3, "warmup_steps": 1, "log_every": 1, "save_every": 2}
DIFFUSION = {
    "stage": "diffusion",
    "variant": "CogVideoX-5B",
    "text_tokens": 24,
    "train_text_encoder": True,
    "questions": {"after_block": 1, "weight": 0.1},
    "buckets": [
        {"num_frames": 9, "height": 32, "width": 48, "count": 4, "share": 0.5},
        {"num_frames": 1, "height": 48, "width": 48, "count": 4, "first": 10, "share": 0.5},
    ],
    "optimisation": OPTIMISATION | {"muon_learning_rate": 1e-3},
}
AUTOENCODER = {
    "stage": "autoencoder",
    "phases": [
        {"until": 2, "num_frames": 9, "height": 16, "width": 16},
        {"until": 4, "num_frames": 17, "height": 32, "width": 24},
    ],
    "optimisation": OPTIMISATION,
}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("toy") / "model", "CogVideoX-5B")


def command(recipe: Path, folder: Path, model: Path, *options: str, processes: int = 1) -> list[str]:
    launch = [sys.executable]
    if processes > 1:
        launch += ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", str(processes)]
        launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
        launch += ["--main_process_port", str(random.randint(20000, 40000))]
    module = ["-m", "cogvideox_core.training", str(recipe), str(folder), "--model", str(model), "--cpu", *options]
    return [*launch, *module]


def train(recipe: dict[str, Any], folder: Path, model: Path, *options: str, processes: int = 1) -> None:
    path = folder.with_suffix(".json")
    path.write_text(json.dumps(recipe))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command(path, folder, model, *options, processes=processes), capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


def weights(folder: Path) -> dict[str, Tensor]:
    files = sorted((folder / "model").rglob("*.safetensors"))
    assert files
    return {f"{file.parent.name}.{name}": tensor for file in files for name, tensor in load_file(file).items()}


# --- Frame pack ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", VARIANTS)
def test_packed_clips_are_as_if_each_were_alone(kind: str, tmp_path: Path) -> None:
    transformer = load_transformer(make_checkpoint(tmp_path, kind), dtype=torch.float32).requires_grad_(True)
    config = transformer.config
    sizes = [(2, 1, 4, 6, 5), (1, 3, 4, 4, 9), (3, 2, 8, 2, 5)]  # clips, frames, rows, columns, text tokens
    if config.use_learned_positional_embeddings:  # its table knows one size and one length of text
        sizes = [(count, frames, 8, 12, 226) for count, frames, *_ in sizes]
    generator = torch.Generator().manual_seed(0)
    bundles = [
        Bundle(
            torch.randn(clips, config.in_channels, frames * config.frame_patch, rows, columns, generator=generator),
            torch.randn(clips, length, config.text_embed_dim, generator=generator),
            torch.randint(0, 1000, (clips,), generator=generator),
        )
        for clips, frames, rows, columns, length in sizes
    ]
    alone = [transformer(*bundle) for bundle in bundles]
    wanted = _gradients(transformer, alone)
    for recompute in (False, True):
        packed = packed_forward(transformer, bundles, recompute=recompute).predictions
        for index, (ours, reference) in enumerate(zip(packed, alone, strict=True)):
            assert_parity(ours, reference, 1e-5, f"{kind}, packed clip {index}")
        assert_parity(_gradients(transformer, packed), wanted, 1e-4, f"{kind}, gradients of the pack")


def test_packed_clips_show_their_tokens_half_way(toy: Path) -> None:
    transformer = load_transformer(toy, dtype=torch.float32)
    bundles = [
        Bundle(torch.randn(2, 16, 3, 4, 6), torch.randn(2, 5, 32), torch.tensor([7, 900])),
        Bundle(torch.randn(1, 16, 1, 8, 4), torch.randn(1, 9, 32), torch.tensor([500])),
    ]
    for depth, block in enumerate(transformer.transformer_blocks, 1):
        seen: list[Any] = []
        packed = packed_forward(transformer, bundles, half_way=depth)
        watch = block.register_forward_hook(lambda *call, seen=seen: seen.append(call[-1]))
        for bundle in bundles:
            transformer(*bundle)
        watch.remove()
        for ours, (video, _) in zip(packed.tokens, seen, strict=True):
            assert_parity(ours, video, 1e-5, f"tokens after block {depth}")


def _gradients(transformer: CogVideoXTransformer3D, predictions: list[Tensor]) -> Tensor:
    loss = sum(prediction.square().sum() for prediction in predictions)
    assert isinstance(loss, Tensor)
    parameters = list(transformer.parameters())
    return torch.cat([gradient.flatten() for gradient in torch.autograd.grad(loss, parameters)])


# --- Timesteps and batches ----------------------------------------------------------------------------------------


def test_explicit_uniform_gives_every_clip_an_interval_of_its_own() -> None:
    batch_size = 20
    for step in range(30):
        timesteps = explicit_uniform(step, range(batch_size), batch_size, seed=1)
        assert sorted(timestep * batch_size // 1000 for timestep in timesteps) == list(range(batch_size))
    orders = {tuple(t // 50 for t in explicit_uniform(step, range(20), 20)) for step in range(30)}
    assert len(orders) == 30, "the intervals are dealt out the same way every time"


@pytest.mark.parametrize("draw", [explicit_uniform, independent])
def test_timesteps_are_uniform_over_all(draw: Any) -> None:
    drawn = torch.tensor([draw(step, range(8), 8, seed=3) for step in range(4000)]).flatten().float()
    assert drawn.min() == 0 and drawn.max() == 999
    assert abs(drawn.mean() - 499.5) < 8
    counts = torch.histc(drawn, 10, 0, 1000)
    assert (counts / counts.mean() - 1).abs().max() < 0.08


@pytest.mark.parametrize("draw", [explicit_uniform, independent])
def test_a_focus_moves_timesteps_to_where_it_lies(draw: Any) -> None:
    focus = Focus(500, 900, 0.6)
    drawn = torch.tensor([draw(step, range(8), 8, focus=focus) for step in range(1500)]).flatten()
    assert drawn.min() < 20 and drawn.max() > 980
    for low, high, share in ((500, 900, 0.76), (500, 700, 0.38), (0, 500, 0.2), (0, 250, 0.1), (900, 1000, 0.04)):
        assert abs(((drawn >= low) & (drawn < high)).float().mean() - share) < 0.02, (low, high)


@pytest.mark.parametrize("draw", [explicit_uniform, independent])
def test_processes_draw_what_one_process_would(draw: Any) -> None:
    whole = draw(5, range(12), 12, seed=2)
    assert draw(5, range(4), 12, seed=2) + draw(5, range(4, 12), 12, seed=2) == whole


def test_independent_timesteps_leave_gaps() -> None:
    held = [len({t // 50 for t in independent(step, range(20), 20)}) for step in range(30)]
    assert max(held) < 20  # 20 of 20 intervals has a chance of 2e-8


def test_slots_cover_the_batch_once() -> None:
    plan = Optimisation(steps=1, batch_size=24, learning_rate=1e-3, accumulation=3)
    parts = [slots for process in range(4) for slots in slots_of_process(plan, process, 4)]
    assert sorted(slot for slots in parts for slot in slots) == list(range(24))
    with pytest.raises(ValueError, match="24 clips does not divide over 5 processes x 3"):
        slots_of_process(plan, 0, 5)


@pytest.mark.parametrize("kind", ["CogVideoX-5B", "CogVideoX-2B"])  # without and with a shift of the noise levels
def test_clips_are_noised_as_diffusers_noises_them(kind: str, tmp_path: Path) -> None:
    model = make_checkpoint(tmp_path / "model", kind)
    objective = objective_of(DIFFUSION | {"variant": kind}, model, tmp_path)
    theirs = CogVideoXDDIMScheduler.from_pretrained(model / "scheduler")
    groups = objective.batch(3, range(4), 4)
    assert [tuple(group.latents.shape[2:]) for group in groups] == [(3, 4, 6), (1, 6, 6)]
    assert sorted(t // 250 for group in groups for t in group.timestep.tolist()) == [0, 1, 2, 3]
    for group, (encoded, _) in zip(groups, objective.buckets, strict=True):
        share = theirs.alphas_cumprod[group.timestep].view(-1, 1, 1, 1, 1).float()
        sample = share**0.5 * group.latents - (1 - share) ** 0.5 * group.target
        noise = (1 - share) ** 0.5 * group.latents + share**0.5 * group.target
        assert_parity(group.latents, theirs.add_noise(sample, noise, group.timestep), 1e-5, f"{kind}, noised")
        assert_parity(group.target, theirs.get_velocity(sample, noise, group.timestep), 1e-5, f"{kind}, velocity")
        assert abs(noise.mean()) < 0.1 and abs(noise.std() - 1) < 0.1
        clips = [encoded[index] for index in range(encoded.bucket.count)]
        for clean in sample:
            apart = [((clean / objective.scale - clip.mean) / clip.deviation).square().mean() for clip in clips]
            assert 0.8 < min(apart) < 1.2, "it is drawn from no clip's posterior"


@pytest.mark.parametrize(
    ("dropout", "given"),
    [({}, "first"), ({"last_image": 1.0}, "both"), ({"last_image": 1.0, "image": 1.0}, "nothing")],
)
def test_images_stand_where_their_frames_do(dropout: dict[str, float], given: str, tmp_path: Path) -> None:
    model = make_checkpoint(tmp_path / "model", "CogVideoX-5B-I2V")
    recipe = DIFFUSION | {"variant": "CogVideoX-5B-I2V", "buckets": DIFFUSION["buckets"][:1]}
    recipe["buckets"] = [recipe["buckets"][0] | {"share": 1.0}]
    recipe["dropout"] = {"image": 0.0, "last_image": 0.0} | dropout
    objective = objective_of(recipe, model, tmp_path)
    (group,) = objective.batch(0, range(4), 4)
    (encoded, _) = objective.buckets[0]
    clips = [encoded[index] for index in range(encoded.bucket.count)]
    condition = group.latents[:, 16:] / objective.image_scale
    assert not condition[:, :, 1:-1].any()
    for place, name, there in ((0, "first", given != "nothing"), (-1, "last", given == "both")):
        for frame in condition[:, :, place]:
            wanted = [getattr(clip, name)[:, 0] for clip in clips]
            assert any(torch.allclose(frame, picture, atol=1e-5) for picture in wanted) if there else not frame.any()


def objective_of(recipe: dict[str, Any], model: Path, folder: Path) -> DiffusionObjective:
    made = make_objective(parse_recipe(recipe), WorldClips(), Places(model, folder / "latents", folder))
    assert isinstance(made, DiffusionObjective)
    return made


# --- Runs ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole_run(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train(DIFFUSION, folder, toy)
    return folder


def test_a_killed_run_goes_on_as_if_it_had_not_been(toy: Path, whole_run: Path, tmp_path: Path) -> None:
    recipe, folder = tmp_path / "recipe.json", tmp_path / "killed"
    recipe.write_text(json.dumps(DIFFUSION))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    arguments = command(recipe, folder, toy, "--latents", str(whole_run / "latents"))
    process = subprocess.Popen(arguments, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (folder / "state.pt").is_file() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run was over before it was killed"
    saved = torch.load(folder / "state.pt", weights_only=True)["step"]
    assert saved == 2

    train(DIFFUSION, folder, toy, "--latents", str(whole_run / "latents"), "--resume")
    assert losses(folder) == losses(whole_run)
    resumed, reference = weights(folder), weights(whole_run)
    assert resumed.keys() == reference.keys()
    for name, tensor in reference.items():
        assert torch.equal(resumed[name], tensor), name


def test_two_processes_are_one(toy: Path, whole_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "two"
    train(DIFFUSION, folder, toy, "--latents", str(whole_run / "latents"), processes=2)
    assert losses(folder) == pytest.approx(losses(whole_run), rel=1e-5)
    for name, tensor in weights(whole_run).items():
        assert (weights(folder)[name].float() - tensor.float()).abs().max() < 2e-3, name


def test_training_changes_what_it_should_and_nothing_else(toy: Path, whole_run: Path) -> None:
    before, after = load_file(toy / "vae" / "diffusion_pytorch_model.safetensors"), whole_run / "model"
    for name, tensor in load_file(after / "vae" / "diffusion_pytorch_model.safetensors").items():
        assert torch.equal(tensor, before[name]), name
    trained = load_transformer(after, dtype=torch.float32).state_dict()
    for name, tensor in load_transformer(toy, dtype=torch.float32).state_dict().items():
        assert not torch.equal(trained[name], tensor.half().float()), f"{name} has not moved"


def test_a_run_writes_a_model_that_makes_videos(whole_run: Path) -> None:
    pipeline = load_pipeline(whole_run / "model", dtype=torch.float32, device="cpu")
    video = pipeline("a red ball", height=32, width=48, num_frames=9, num_inference_steps=2)
    assert video.shape == (1, 3, 9, 32, 48) and video.isfinite().all()


def test_text_to_video_widens_into_image_to_video(toy: Path, tmp_path: Path) -> None:
    shape = {"sample_height": 6, "sample_width": 6, "sample_frames": 9}
    recipe = DIFFUSION | {"transformer": {"num_attention_heads": 2, "num_layers": 1, "time_embed_dim": 8, **shape}}
    recipe["transformer"]["text_embed_dim"] = 32
    recipe["buckets"] = [{"num_frames": 9, "height": 48, "width": 48, "count": 4, "share": 1.0}]
    train(recipe, tmp_path / "text", toy)
    del recipe["transformer"]
    train(recipe | {"variant": "CogVideoX-5B-I2V"}, tmp_path / "image", tmp_path / "text" / "model")
    widened = load_transformer(tmp_path / "image" / "model")
    assert widened.variant is VARIANTS["CogVideoX-5B-I2V"]
    assert widened.config.in_channels == 32 and widened.config.use_learned_positional_embeddings
    assert widened.state_dict()["patch_embed.proj.weight"][:, 16:].any(), "the image channels have learned nothing"
    pipeline = load_pipeline(tmp_path / "image" / "model", dtype=torch.float32, device="cpu")
    video = pipeline("a red ball", image=torch.rand(3, 48, 48), num_inference_steps=2)
    assert video.shape == (1, 3, 9, 48, 48) and video.isfinite().all()


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

    from cogvideox_core.text_encoder import load_text_encoder, load_tokenizer

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


# --- What does not fit --------------------------------------------------------------------------------------------


def test_a_run_is_never_overwritten(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    RunFolder(folder, {"a": 1}).log({"step": 1})
    with pytest.raises(RunExistsError, match="already holds a run; continue it with --resume"):
        RunFolder(folder, {"a": 1})
    with pytest.raises(RunExistsError, match=r"another recipe \(different: a\)"):
        RunFolder(folder, {"a": 2}, resume=True)
    assert (folder / "log.jsonl").read_text() == '{"step": 1}\n'
    RunFolder(folder, {"a": 1}, resume=True)

    other = tmp_path / "holiday"
    other.mkdir()
    (other / "photo.jpg").touch()
    for resume in (False, True):
        with pytest.raises(RunExistsError, match="holds 'photo.jpg' and no run"):
            RunFolder(other, {}, resume=resume)
    with pytest.raises(RunExistsError, match="is a file; a run needs a folder"):
        RunFolder(other / "photo.jpg", {})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"stage": "dreaming"}, "stage is 'dreaming'; it is one of autoencoder, text, diffusion"),
        ({"lr": 1}, "recipe has no field lr; it takes optimisation, buckets"),
        ({"optimisation": {"steps": 1}}, "optimisation: .*missing 2 required.*'batch_size' and 'learning_rate'"),
        ({"questions": {"depth": 3}}, "questions has no field depth; it takes after_block, weight"),
        ({"optimisation": 3}, "optimisation is 3; it takes an object"),
        ({"buckets": [{"num_frames": 9, "height": 8, "width": 8, "count": 1, "share": 0.5}]}, "add up to 0.5; make it"),
    ],
)
def test_a_recipe_that_does_not_fit_is_told(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        parse_recipe(DIFFUSION | change)


def test_every_recipe_in_the_box_is_one() -> None:
    names = [path.stem for path in RECIPES.glob("*.json")]
    assert names
    for name in names:
        parse_recipe(find_recipe(name))
    with pytest.raises(ValueError, match="no recipe 'demo'; give a JSON file or one of demo-"):
        find_recipe("demo")


def test_the_command_tells_in_a_sentence(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cogvideox_core.training", "demo-text-to-video-1", str(tmp_path / "run"), "--cpu"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("training: the recipe makes no vae of its own; give")


# --- Words and clips ----------------------------------------------------------------------------------------------


def test_a_tokenizer_of_ones_own(tmp_path: Path) -> None:
    from cogvideox_core.text_encoder import load_tokenizer

    sentences = [caption(make_scene(seed), seed) for seed in range(2000)]
    size = train_tokenizer(sentences, tmp_path / "tokenizer", 400)
    tokenizer = load_tokenizer(tmp_path / "tokenizer", size)
    ids = tokenizer("a red ball", return_tensors="pt").input_ids[0]
    assert ids[-1] == 1 and "▁ball" in tokenizer.tokenize("a red ball"), "a frequent word is one piece"
    assert torch.equal(ids, tokenizer("A RED Ball", return_tensors="pt").input_ids[0])
    unknown = tokenizer("xylophone 42!", return_tensors="pt").input_ids[0]
    assert 2 not in unknown, "every word can be spelled"
    assert len(tokenizer) <= size


def test_a_folder_of_videos_is_a_source(tmp_path: Path) -> None:
    video = render(make_scene(3), 17, 64, 96)
    write_video(tmp_path / "one.mp4", video[None], 8)
    with pytest.raises(ValueError, match=r"one.mp4 has no caption \(1 in all\)"):
        FolderClips(tmp_path)
    (tmp_path / "one.txt").write_text("a star\n")
    clips = FolderClips(tmp_path)
    assert clips.caption(5, 0, 9) == "a star"
    error = (clips.video(0, 9, 64, 96) - video[:, :9]).square().mean()
    assert error < 1e-3, "30 dB are left after H.264 and its halved colours"
    assert (clips.video(0, 9, 64, 96) - video[:, 8:]).square().mean() > 2 * error, "they are not the first frames"
    assert clips.video(0, 9, 32, 32).shape == (3, 9, 32, 32)
    with pytest.raises(ValueError, match="has 17 frames; this bucket takes 25"):
        clips.video(0, 25, 32, 32)
    with pytest.raises(ValueError, match="holds no .mp4"):
        FolderClips(tmp_path / "nothing")
