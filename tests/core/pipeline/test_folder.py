"""A model folder: opened once, checked as a whole, loaded from what is open."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cogvideox_core import CheckpointError, load_pipeline
from cogvideox_core.demo import DEMO_MODEL
from cogvideox_core.pipeline.folder import ModelFolder, default_device

Checkpoint = Callable[..., Path]
KIND = "CogVideoX-5B"
ASKED = dict(num_inference_steps=1, num_frames=9, height=64, width=96, output_type="latent")


def test_a_folder_knows_its_parts_before_anything_is_loaded(checkpoint: Checkpoint) -> None:
    folder = ModelFolder.open(checkpoint(KIND))
    assert folder.variant.name == KIND
    assert folder.text_encoder.config["d_model"] == folder.transformer.config.text_embed_dim
    assert folder.vae.config.latent_channels == folder.transformer.config.out_channels


def test_files_are_not_opened_again_to_load_them(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """The folder is moved away between opening and loading; only the tokenizer is read by its path."""
    path = Path(shutil.copytree(checkpoint(KIND), tmp_path / "model"))
    folder = ModelFolder.open(path)
    for component in ("transformer", "vae"):
        (path / component).rename(tmp_path / component)
    pipeline = folder.load(device="cpu")
    expected = load_pipeline(checkpoint(KIND), device="cpu")
    made, wanted = (one("a cat", **ASKED, generator=torch.Generator().manual_seed(1)) for one in (pipeline, expected))
    assert torch.equal(made, wanted)


def test_without_a_path_it_is_the_demo_model() -> None:
    wanted = ModelFolder.open(DEMO_MODEL)
    assert load_pipeline(device="cpu").transformer.config == wanted.transformer.config


def test_the_schedule_of_the_folder_counts(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = Path(shutil.copytree(checkpoint(KIND), tmp_path / "model"))
    file = path / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"snr_shift_scale": 3.0}))
    assert ModelFolder.open(path).variant.schedule.snr_shift_scale == 3.0


def test_a_text_encoder_of_another_width_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = Path(shutil.copytree(checkpoint(KIND), tmp_path / "model"))
    shutil.rmtree(path / "text_encoder")
    shutil.copytree(DEMO_MODEL / "text_encoder", path / "text_encoder")
    with pytest.raises(ValueError, match="makes embeddings .* wide and its transformer takes 32; put the text encoder"):
        ModelFolder.open(path)


@pytest.mark.parametrize("missing", ["transformer", "vae", "text_encoder", "tokenizer"])
def test_a_missing_component_is_named(checkpoint: Checkpoint, tmp_path: Path, missing: str) -> None:
    path = Path(shutil.copytree(checkpoint(KIND), tmp_path / "model"))
    shutil.rmtree(path / missing)
    with pytest.raises(CheckpointError, match=missing):
        ModelFolder.open(path)


def test_missing_settings_are_not_guessed(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = Path(shutil.copytree(checkpoint(KIND), tmp_path / "model"))
    (path / "vae" / "config.json").unlink()
    with pytest.raises(CheckpointError, match="config.json is missing; get that file again, or the whole folder"):
        ModelFolder.open(path)


def test_a_single_file_is_refused() -> None:
    with pytest.raises(CheckpointError, match="is a single file; give a whole CogVideoX folder"):
        ModelFolder.open(DEMO_MODEL / "transformer" / "diffusion_pytorch_model.safetensors")


def test_the_default_device_is_one_that_is_here() -> None:
    torch.zeros(1, device=default_device())
