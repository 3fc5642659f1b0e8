"""Training runs: they survive a kill, many processes are one, and what does not fit is told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cogvideox_core import VARIANTS, load_pipeline, load_transformer
from cogvideox_core.training.clips import FolderClips
from cogvideox_core.training.demo_world.captions import caption
from cogvideox_core.training.demo_world.world import make_scene, render
from cogvideox_core.training.recipe import RECIPES, find_recipe, parse_recipe
from cogvideox_core.training.run_folder import RunExistsError, RunFolder
from cogvideox_core.training.tokenizer import train_tokenizer
from cogvideox_core.videos.video_io import write_video
from tests.support.training_runs import (
    AUTOENCODER,
    DIFFUSION,
    OPTIMISATION,
    command,
    losses,
    objective_of,
    train,
    weights,
)

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
        ({"timesteps": "some"}, "timesteps is 'some'; it is one of explicit_uniform, independent"),
        ({"optimisation": OPTIMISATION | {"steps": "many"}}, "optimisation has steps 'many'; it takes a whole number"),
        ({"recompute": 1}, "recipe has recompute 1; it takes true or false"),
    ],
)
def test_a_recipe_that_does_not_fit_is_told(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        parse_recipe(DIFFUSION | change)


def test_phases_last_as_long_as_the_run() -> None:
    with pytest.raises(ValueError, match="phases end at step 4 of 5; let the last one go on until 5"):
        parse_recipe(AUTOENCODER | {"optimisation": OPTIMISATION | {"steps": 5}})


def test_questions_come_after_a_block_there_is(toy: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="questions after block 3 of 2; take one from 1 to 2"):
        objective_of(DIFFUSION | {"questions": {"after_block": 3, "weight": 0.1}}, toy, tmp_path)


def test_a_new_text_encoder_says_how_large_its_vocabulary_is(toy: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="text_encoder has vocab_size None; it takes how many pieces"):
        objective_of(DIFFUSION | {"text_encoder": {"d_model": 32}}, toy, tmp_path)


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
    from cogvideox_core.weights.t5 import load_tokenizer

    sentences = [caption(make_scene(seed), seed) for seed in range(2000)]
    size = train_tokenizer(sentences, tmp_path / "tokenizer", 400)
    tokenizer = load_tokenizer(tmp_path / "tokenizer", size)
    ids = tokenizer("a red ball", return_tensors="pt").input_ids[0]
    assert ids[-1] == 1 and "\u2581ball" in tokenizer.tokenize("a red ball"), "a frequent word is one piece"
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
