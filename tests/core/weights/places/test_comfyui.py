"""ComfyUI's model folders from outside: those of `models`, and those of extra_model_paths.yaml as ComfyUI reads it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cogvideox_core import CheckpointError
from cogvideox_core.weights.places import comfyui
from cogvideox_core.weights.places.comfyui import comfyui_folder, from_home, model_folders, t5_tokenizer


def made(*folders: Path) -> list[Path]:
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    return list(folders)


def test_the_variable_counts_and_then_the_comfyui_that_the_pack_is_in(
    own_comfyui: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert comfyui_folder() == own_comfyui
    monkeypatch.setenv("COMFYUI_PATH", "~/ComfyUI")
    assert comfyui_folder() == Path.home() / "ComfyUI"
    monkeypatch.delenv("COMFYUI_PATH")
    monkeypatch.setattr(comfyui, "_OWN_FOLDER", tmp_path / "ComfyUI" / "custom_nodes" / "cogvideox-nodes")
    assert comfyui_folder() == own_comfyui
    monkeypatch.setattr(comfyui, "_OWN_FOLDER", tmp_path / "elsewhere" / "cogvideox-nodes")
    assert comfyui_folder() is None and model_folders("loras") == [] and t5_tokenizer() is None


def test_older_folders_of_a_kind_are_looked_into_too(own_comfyui: Path) -> None:
    models = own_comfyui / "models"
    new, old = made(models / "diffusion_models", models / "unet")
    assert model_folders("diffusion_models") == [new, old]
    new, old = made(models / "text_encoders", models / "clip")
    assert model_folders("text_encoders") == [new, old]
    assert model_folders("loras") == [], "a folder that is not there"


def test_extra_model_paths_are_read_as_comfyui_reads_them(
    own_comfyui: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DISK", str(tmp_path / "disk"))
    far, other, beside, hub, unet = made(
        tmp_path / "disk" / "loras",
        tmp_path / "disk" / "more loras",
        own_comfyui / "beside",
        tmp_path / "home" / ".cache" / "huggingface" / "hub",
        tmp_path / "disk" / "unet",
    )
    (own_comfyui / "extra_model_paths.yaml").write_text(
        "far:\n"
        "  base_path: $DISK\n"
        "  is_default: true\n"
        "  loras: |\n"
        "    loras\n"
        "    more loras/\n"
        "    not there\n"
        "  unet: unet\n"
        "relative:\n"
        "  loras: beside\n"
        "empty:\n"
        "cache:\n"
        "  diffusers: ~/.cache/huggingface/hub\n"
    )
    assert model_folders("loras") == [far, other, beside]
    assert model_folders("diffusion_models") == [unet]
    assert model_folders("diffusers") == [hub]


@pytest.mark.parametrize("content", [b"a: [", b"\xff\xfe", b"a:\n\t- b"])
def test_settings_that_cannot_be_read_are_told(own_comfyui: Path, content: bytes) -> None:
    (own_comfyui / "extra_model_paths.yaml").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"extra_model_paths\.yaml cannot be read \(.*\); repair it"):
        model_folders("loras")


@pytest.mark.parametrize("content", ["", "- a\n- b", "text", "a: b"])
def test_settings_without_folders_add_none(own_comfyui: Path, content: str) -> None:
    (own_comfyui / "extra_model_paths.yaml").write_text(content)
    assert model_folders("loras") == []


def test_a_home_that_another_folder_was_put_before_is_the_users(tmp_path: Path) -> None:
    assert from_home("~/models") == from_home("/opt/ComfyUI/~/models") == Path.home() / "models"
    assert from_home("/opt/models~/x") == Path("/opt/models~/x")
    (folder,) = made(tmp_path / "~" / "models")
    assert from_home(folder) == folder, "a folder that is really called so"


def test_the_tokenizer_is_where_comfyui_has_it(own_comfyui: Path) -> None:
    assert t5_tokenizer() is None
    (folder,) = made(own_comfyui / "comfy" / "text_encoders" / "t5_tokenizer")
    assert t5_tokenizer() == folder
