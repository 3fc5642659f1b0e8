"""The diffusers folder: where components lie and what the folder's JSON declares."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cogvideox_core.models.variants import VARIANTS
from cogvideox_core.weights.diffusers_folder import component_path, folder_variant, pipeline_folder, read_config
from cogvideox_core.weights.errors import CheckpointError

ROW = VARIANTS["CogVideoX-5B"]
NAMES = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A folder in the official layout, without weights."""
    root = tmp_path / "CogVideoX"
    for name in NAMES:
        (root / name).mkdir(parents=True)
    write(root / "model_index.json", {"_class_name": "CogVideoXPipeline"})
    write(root / "transformer" / "config.json", {"num_layers": 2})
    return root


def write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("name", NAMES)
def test_every_component_is_found_from_the_folder_and_from_a_sibling(whole: Path, name: Any) -> None:
    file = whole / "transformer" / "diffusion_pytorch_model.safetensors"
    file.touch()
    assert component_path(whole, name) == whole / name
    assert component_path(str(whole / "vae"), name) == whole / name
    assert component_path(file, name) == (file if name == "transformer" else whole / name)


def test_a_component_that_stands_alone_is_taken_for_itself(whole: Path, tmp_path: Path) -> None:
    (whole / "model_index.json").unlink()
    assert component_path(whole / "vae", "vae") == whole / "vae"
    assert component_path(whole / "vae", "transformer") == whole / "vae"
    assert pipeline_folder(whole / "vae") is None
    file = tmp_path / "any.safetensors"
    file.touch()
    assert component_path(file, "text_encoder") == file


def test_a_folder_without_its_index_file_still_has_components(whole: Path) -> None:
    (whole / "model_index.json").unlink()
    assert component_path(whole, "vae") == whole / "vae"


def test_what_is_not_there_is_named(whole: Path) -> None:
    (whole / "vae").rmdir()
    for path in (whole, whole / "transformer"):
        with pytest.raises(CheckpointError, match="CogVideoX has no folder vae; "):
            component_path(path, "vae")
    with pytest.raises(CheckpointError, match="nowhere does not exist; "):
        component_path(whole / "nowhere", "vae")


def test_a_config_speaks_for_its_folder_and_for_official_file_names(whole: Path) -> None:
    folder = whole / "transformer"
    assert read_config(folder) == {"num_layers": 2}
    for name in ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model-00001-of-00002.safetensors",
                 "diffusion_pytorch_model.safetensors.index.json", "model.safetensors"):  # fmt: skip
        (folder / name).touch()
        assert read_config(folder / name) == {"num_layers": 2}
    (folder / "another.safetensors").touch()
    assert read_config(folder / "another.safetensors") is None
    assert read_config(whole / "vae") is None


def test_a_broken_config_is_refused(whole: Path) -> None:
    for text in ("{", "[1]", '"x"', "", "[" * 100_000):
        (whole / "transformer" / "config.json").write_text(text)
        with pytest.raises(CheckpointError, match="config.json"):
            read_config(whole / "transformer")


def test_the_row_itself_comes_back_where_nothing_differs(whole: Path) -> None:
    assert folder_variant(ROW, whole) is ROW
    write(whole / "scheduler" / "scheduler_config.json", {"beta_start": 0.00085, "snr_shift_scale": 1.0, "x": 1})
    write(whole / "vae" / "config.json", {"scaling_factor": 0.7, "block_out_channels": [8, 16]})
    assert folder_variant(ROW, whole) is ROW
    (whole / "model_index.json").unlink()
    assert folder_variant(ROW, whole / "transformer") is ROW


@pytest.mark.parametrize("part", ["", "transformer", "vae"])
def test_what_the_folder_declares_replaces_the_row(whole: Path, part: str) -> None:
    write(whole / "scheduler" / "scheduler_config.json", {"beta_end": 0.02, "snr_shift_scale": 3})
    write(whole / "vae" / "config.json", {"scaling_factor": 1.5, "invert_scale_latents": True})
    found = folder_variant(ROW, whole / part)
    assert (found.schedule.beta_start, found.schedule.beta_end, found.schedule.snr_shift_scale) == (0.00085, 0.02, 3.0)
    assert (found.vae.scaling_factor, found.vae.invert_scale_latents) == (1.5, True)
    assert found.name == ROW.name and found.transformer is ROW.transformer


@pytest.mark.parametrize(
    ("field", "value"),
    [("snr_shift_scale", "3"), ("beta_start", 0), ("num_train_timesteps", 2.5), ("prediction_type", "epsilon"),
     ("beta_schedule", "linear"), ("rescale_betas_zero_snr", False), ("trained_betas", [0.1])],
)  # fmt: skip
def test_a_schedule_that_is_not_cogvideox_is_refused(whole: Path, field: str, value: object) -> None:
    write(whole / "scheduler" / "scheduler_config.json", {field: value})
    with pytest.raises(CheckpointError, match=f"scheduler_config.json declares {field}"):
        folder_variant(ROW, whole)


def test_a_scaling_factor_that_is_no_number_is_refused(whole: Path) -> None:
    (whole / "vae" / "config.json").write_text('{"scaling_factor": Infinity}')
    with pytest.raises(CheckpointError, match=r"config.json declares scaling_factor inf"):
        folder_variant(ROW, whole)
