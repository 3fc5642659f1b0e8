"""`cogvideox models`, and `--model`, `--vae`, `--t5` and `--lora` without a value: the names there are."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cogvideox_core.cli import main as cli
from cogvideox_core.demo import DEMO_LORAS
from tests.support.hub_cache import add_to_cache

Checkpoint = Callable[..., Path]
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def models(own_comfyui: Path, own_cache: Path, checkpoint: Checkpoint) -> Path:
    """ComfyUI's model folder with two models, one of them of another family, and a LoRA; and a cache with one model."""
    models = own_comfyui / "models"
    for folder in ("diffusion_models", "loras", "diffusers"):
        (models / folder).mkdir()
    (models / "diffusers" / "mine").symlink_to(checkpoint("CogVideoX-5B"))
    save_file({"blocks.0.cross_attn.q.weight": torch.ones(2)}, models / "diffusion_models" / "wan.safetensors")
    (models / "diffusion_models" / "cut.safetensors").write_bytes(b"\x00\x01")
    shutil.copy(DEMO_LORAS["old-film"], models / "loras" / "old film.safetensors")
    add_to_cache(own_cache, "zai-org/CogVideoX-2b", checkpoint("CogVideoX-2B"))
    return models


def printed(capsys: Captured, *arguments: str) -> list[str]:
    assert cli.main(list(arguments)) == 0
    return capsys.readouterr().out.splitlines()


def test_models_are_listed_by_the_options_that_take_them(models: Path, own_cache: Path, capsys: Captured) -> None:
    parts = ["  mine                  {}", "  zai-org/CogVideoX-2b  {}"]
    assert printed(capsys, "models") == [
        "--model",
        "  mine                  CogVideoX-5B",
        "  zai-org/CogVideoX-2b  CogVideoX-2B",
        "--vae",
        *(line.format(".safetensors, diffusers") for line in parts),
        "--t5",
        *(line.format(".safetensors, transformers") for line in parts),
        "--lora",
        "  old film.safetensors  a LoRA",
        "2 more are of other models, or do not open: cogvideox inspect NAME says why",
        f"Looked in ComfyUI's model folders ({models}) and Hugging Face's cache ({own_cache}).",
    ]


@pytest.mark.parametrize(
    ("option", "first"),
    [("--model", "mine "), ("--vae", "mine "), ("--t5", "mine "), ("--lora", "old film.safetensors ")],
)
def test_an_option_without_a_value_lists_what_it_takes(option: str, first: str, models: Path, capsys: Captured) -> None:
    for arguments in ([option], ["a cat", option], ["a cat", option, "--steps", "2"]):
        lines = printed(capsys, *arguments)
        assert lines[0] == option and lines[1].startswith(f"  {first}")
        assert not [line for line in lines[1:] if line.startswith("--")]


def test_where_nothing_is_known_it_says_where_it_looked(own_cache: Path, capsys: Captured) -> None:
    assert printed(capsys, "models")[:3] == ["--model", "  none", "--vae"]
    where = f"ComfyUI's model folders (COMFYUI_PATH is not set) and Hugging Face's cache ({own_cache})"
    assert printed(capsys, "a cat", "--lora") == ["--lora", "  none", f"Looked in {where}."]


def test_settings_of_comfyui_that_are_damaged_are_one_sentence(own_comfyui: Path, capsys: Captured) -> None:
    (own_comfyui / "extra_model_paths.yaml").write_text("a: [")
    assert cli.main(["models"]) == 2
    told = capsys.readouterr().err
    assert "extra_model_paths.yaml cannot be read" in told and told.count("\n") == 1
