"""The command: it trains and writes a model, and says what does not fit in one sentence."""

from __future__ import annotations

import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch

from cogvideox_core import load_pipeline
from cogvideox_core.training.__main__ import _check_machine, main
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


def test_emulated_bfloat16_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (7, 5))
    asked = Namespace(mixed_precision="bf16", compile=False)
    with pytest.raises(ValueError, match=r"--mixed-precision bf16 on cuda, .*\(its compute .* below 8\.0\); take no$"):
        _check_machine(asked, torch.device("cuda"))
    _check_machine(asked, torch.device("cpu"))


def test_a_machine_that_cannot_compile_is_told_before_anything_is_made(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_compiler(function: Any) -> Any:
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(torch, "compile", no_compiler)
    assert main(["demo-text-to-video-1", str(tmp_path / "run"), "--model", str(toy), "--cpu", "--compile"]) == 2
    assert "torch.compile does not work here (RuntimeError: Failed to find C compiler)" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


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
