"""The command: it trains and writes a model, and says what does not fit in one sentence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cogvideox_core import load_pipeline
from cogvideox_core.training.__main__ import main
from tests.support.training_runs import losses


def test_a_training_run_writes_a_model_that_makes_videos(trained: Path) -> None:
    assert len(losses(trained)) == 4
    pipeline = load_pipeline(trained / "model", dtype=torch.float32, device="cpu")
    video = pipeline("a red ball", height=32, width=48, num_frames=9, num_inference_steps=2)
    assert video.shape == (1, 3, 9, 32, 48) and video.isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["demo-text-to-video-1"], "training: the recipe makes no vae of its own; give the folder of a model"),
        (["demo"], "training: no recipe 'demo'; give a JSON file or one of demo-autoencoder-1"),
        (["demo-text", "--clips", "{folder}"], "holds no video (.mp4, .mov, "),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    arguments: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, *options = (argument.format(folder=tmp_path) for argument in arguments)
    assert main([recipe, str(tmp_path / "run"), "--cpu", *options]) == 2
    assert sentence in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_folder_that_holds_a_training_run_is_not_trained_into(
    trained: Path, toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (trained / "log.jsonl").read_bytes()
    assert main([str(trained.with_suffix(".json")), str(trained), "--model", str(toy), "--cpu"]) == 2
    assert "already holds a training run; continue it with --resume" in capsys.readouterr().err
    assert (trained / "log.jsonl").read_bytes() == before


def test_help_comes_without_loading_a_model() -> None:
    code = (
        "import sys; from cogvideox_core.training.__main__ import main\n"
        "try: main(['--help'])\nfinally: assert 'diffusers' not in sys.modules and 'accelerate' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "RECIPE" in done.stdout.upper() and "--mixed-precision" in done.stdout
