"""Which file or folder each component comes from, and what is said when one is missing."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from cogvideox_core import CheckpointError
from cogvideox_core.demo import DEMO_MODEL
from cogvideox_core.pipeline.sources import NO_TEXT_ENCODER, Sources
from tests.support.checkpoints import whole_model
from tests.support.weight_forms import sat_with_t5_and_vae

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def alone(tmp_path: Path) -> Path:
    """A transformer's file, alone in its folder."""
    return Path(shutil.copy(DEMO_MODEL / "transformer" / WEIGHTS, tmp_path / "alone.safetensors"))


def test_a_folder_has_everything() -> None:
    for path in (DEMO_MODEL, str(DEMO_MODEL), DEMO_MODEL / "transformer", DEMO_MODEL / "vae"):
        found = Sources.find(path)
        assert (found.model, found.root) == (Path(path), DEMO_MODEL)
        assert (found.vae, found.text_encoder) == (DEMO_MODEL / "vae", DEMO_MODEL / "text_encoder")
        assert found.transformer == DEMO_MODEL / "transformer"
        found.require("vae", "text_encoder")


def test_a_file_has_what_is_given_with_it(alone: Path) -> None:
    found = Sources.find(alone, DEMO_MODEL / "vae" / WEIGHTS, DEMO_MODEL)
    assert (found.model, found.transformer, found.root) == (alone, alone, None)
    assert (found.vae, found.text_encoder) == (DEMO_MODEL / "vae" / WEIGHTS, DEMO_MODEL / "text_encoder")
    assert Sources.find(DEMO_MODEL, text_encoder=NO_TEXT_ENCODER).text_encoder is None


def test_a_fine_tune_with_sat_may_have_everything_in_its_one_file(tmp_path: Path) -> None:
    run = sat_with_t5_and_vae(*whole_model(), tmp_path)
    for path in (run, run / "1000", run / "1000" / "mp_rank_00_model_states.pt"):
        found = Sources.find(path)
        assert (found.transformer, found.vae, found.text_encoder, found.root) == (path, path, path, None)
        assert Sources.find(path, vae=DEMO_MODEL).vae == DEMO_MODEL / "vae"


def test_one_sentence_names_all_that_is_missing_and_where_it_is(alone: Path, tmp_path: Path) -> None:
    found = Sources.find(alone)
    assert (found.vae, found.text_encoder) == (None, None)
    vae = r"vae=PATH \(the folder vae of any CogVideoX model, or its file in ComfyUI's models/vae\)"
    text = r"text_encoder=PATH \(the folder text_encoder of any CogVideoX model, or a t5xxl file\)"
    start, end = re.escape(f"{alone} is a single file with a transformer, without "), ", or a whole CogVideoX folder$"
    for components, told in (
        (("vae", "text_encoder"), f"{start}VAE and T5; give {vae} and {text}{end}"),
        (("vae",), f"{start}VAE; give {vae}{end}"),
        (("text_encoder",), f"{start}T5; give {text}{end}"),
    ):
        with pytest.raises(CheckpointError, match=told):
            found.require(*components)
    shutil.copytree(DEMO_MODEL / "transformer", tmp_path / "checkpoint-500")
    with pytest.raises(CheckpointError, match="checkpoint-500 is the folder of a transformer, without VAE; give vae="):
        Sources.find(tmp_path / "checkpoint-500").require("vae")
    shutil.copytree(DEMO_MODEL / "transformer", tmp_path / "whole" / "transformer")
    with pytest.raises(CheckpointError, match="whole has no folder vae and no text_encoder; give .* download the fold"):
        Sources.find(tmp_path / "whole").require("vae", "text_encoder")


@pytest.mark.parametrize("given", [{"vae": "/absent"}, {"text_encoder": "/absent"}])
def test_what_is_given_and_is_not_there_is_told(alone: Path, given: dict[str, str]) -> None:
    with pytest.raises(CheckpointError, match="/absent does not exist; give a CogVideoX folder or a weight file"):
        Sources.find(alone, **given)
