"""What people type, and where it leads: paths, names below ComfyUI's folders, names in Hugging Face's cache."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from cogvideox_core import CheckpointError, load_lora, load_text_encoder, load_transformer, load_vae
from cogvideox_core.demo import DEMO_LORAS, DEMO_MODEL
from cogvideox_core.weights.places.names import known_models, locate
from tests.support.hub_cache import FIRST, add_to_cache

NAME = "zai-org/CogVideoX-5b"


@pytest.fixture
def models(own_comfyui: Path) -> Path:
    """ComfyUI's models: a whole folder, two transformers, a VAE, a T5 and a LoRA."""
    folder = own_comfyui / "models"
    shutil.copytree(DEMO_MODEL, folder / "diffusers" / "CogVideoX-5b")
    for file in ("unet/5b.safetensors", "diffusion_models/fun/5b.safetensors"):
        copied(DEMO_MODEL / "transformer" / "diffusion_pytorch_model.safetensors", folder / file)
    copied(DEMO_MODEL / "vae" / "diffusion_pytorch_model.safetensors", folder / "vae" / "cogvideox.safetensors")
    copied(DEMO_MODEL / "text_encoder" / "model.safetensors", folder / "clip" / "t5" / "t5xxl.safetensors")
    copied(DEMO_LORAS["old-film"], folder / "loras" / "film" / "old.safetensors")
    return folder


def copied(file: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(file, target)


def test_a_path_is_meant_as_it_is(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "CogVideoX-5b").mkdir()
    assert locate("~/CogVideoX-5b") == tmp_path / "CogVideoX-5b"
    assert locate(DEMO_MODEL) == DEMO_MODEL
    monkeypatch.chdir(tmp_path)
    assert locate("CogVideoX-5b") == Path("CogVideoX-5b"), "a folder here comes before one in ComfyUI"
    for nowhere in ("./no.safetensors", "../no", str(tmp_path / "no"), "~/no"):
        assert locate(nowhere) == Path(nowhere).expanduser(), "its reader says what fits"


def test_a_name_is_one_below_comfyuis_folders_or_its_end(models: Path) -> None:
    whole = models / "diffusers" / "CogVideoX-5b"
    for name in ("CogVideoX-5b", "cogvideox-5B", "CogVideoX-5b/"):
        assert locate(name, "transformer") == locate(name, "vae") == locate(name) == whole
    assert locate("CogVideoX-5b/vae") == whole / "vae"
    assert locate("fun/5b.safetensors", "transformer") == models / "diffusion_models" / "fun" / "5b.safetensors"
    assert locate("fun\\5b.safetensors", "transformer") == models / "diffusion_models" / "fun" / "5b.safetensors"
    assert locate("5b.safetensors", "transformer") == models / "unet" / "5b.safetensors", "the whole name first"
    assert locate("old.safetensors", "lora") == models / "loras" / "film" / "old.safetensors"
    assert locate("t5xxl.safetensors", "text_encoder") == models / "clip" / "t5" / "t5xxl.safetensors"


def test_a_name_that_may_be_several_is_not_guessed(models: Path) -> None:
    copied(DEMO_LORAS["old-film"], models / "loras" / "cinema" / "old.safetensors")
    cinema, film = (re.escape(str(models / "loras" / folder / "old.safetensors")) for folder in ("cinema", "film"))
    with pytest.raises(CheckpointError, match=f"^old.safetensors may be {cinema} or {film}; give the path of one$"):
        locate("old.safetensors", "lora")
    copied(DEMO_LORAS["old-film"], models / "vae" / "5b.safetensors")
    with pytest.raises(CheckpointError, match="5b.safetensors may be .*unet/5b.safetensors or .*vae/5b.saf"):
        locate("5b.safetensors")


def test_a_kind_is_looked_for_in_its_own_folders(models: Path) -> None:
    with pytest.raises(CheckpointError, match="old.safetensors does not exist"):
        locate("film/old.safetensors", "vae")
    assert locate("film/old.safetensors") == models / "loras" / "film" / "old.safetensors", "of any kind"


def test_a_name_of_hugging_face_is_looked_for_in_its_cache(own_cache: Path) -> None:
    snapshot = add_to_cache(own_cache, NAME, DEMO_MODEL)
    for name in (NAME, "THUDM/CogVideoX-5b", "CogVideoX-5b", str(own_cache / "models--zai-org--CogVideoX-5b")):
        assert locate(name, "transformer") == snapshot
    assert locate(f"{NAME}/vae", "vae") == snapshot / "vae"
    assert list(known_models("vae")) == [NAME]


def test_a_file_of_any_repository_is_found_too(own_cache: Path, tmp_path: Path) -> None:
    copied(DEMO_LORAS["old-film"], tmp_path / "repository" / "loras" / "orbit.safetensors")
    snapshot = add_to_cache(own_cache, "someone/orbits", tmp_path / "repository")
    assert locate("someone/orbits/loras/orbit.safetensors", "lora") == snapshot / "loras" / "orbit.safetensors"


def test_every_loader_takes_names(models: Path, own_cache: Path) -> None:
    add_to_cache(own_cache, "someone/demo", DEMO_MODEL)
    assert load_lora(load_transformer("CogVideoX-5b"), "old.safetensors").matched
    for name in ("CogVideoX-5b", "someone/demo"):
        config = load_transformer(name).config
        assert load_vae(name).config.latent_channels == config.out_channels
        assert load_text_encoder(name).width == config.text_embed_dim


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        (NAME, "; download it with: hf download zai-org/CogVideoX-5b"),
        ("THUDM/cogvideox-5b", "; download it with: hf download zai-org/CogVideoX-5b"),
        ("CogVideoX1.5-5B-I2V", "; download it with: hf download zai-org/CogVideoX1.5-5B-I2V"),
        ("models/CogVideoX-2b", "; download it with: hf download zai-org/CogVideoX-2b"),
        ("someone/orbits", "; if Hugging Face has it, download it with: hf download someone/orbits"),
        ("someone/orbits/a.safetensors", "download it with: hf download someone/orbits a.safetensors"),
        ("5c.safetensors", "; give a weight file or a CogVideoX folder"),
    ],
)
def test_what_is_nowhere_is_told_with_what_to_do(name: str, advice: str, own_cache: Path) -> None:
    where = f"ComfyUI's model folders (COMFYUI_PATH is not set) and Hugging Face's cache ({own_cache})"
    with pytest.raises(CheckpointError) as told:
        locate(name, "transformer")
    assert str(told.value).startswith(f"{name} does not exist; it is no path, and {where} do not have it; ")
    assert advice.replace("hf download", "") in re.sub("hf download|huggingface-cli download", "", str(told.value))


def test_what_there_is_is_told_with_a_name_that_is_not(models: Path) -> None:
    told = re.escape(f"no path, and ComfyUI's model folders ({models})") + ".*; they have .*CogVideoX-5b"
    with pytest.raises(CheckpointError, match=told):
        locate("5c.safetensors", "transformer")


def test_a_commit_beside_main_has_a_name_of_its_own(own_cache: Path) -> None:
    beside = add_to_cache(own_cache, NAME, DEMO_MODEL, FIRST, is_main=False)
    main = add_to_cache(own_cache, NAME, DEMO_MODEL, "a" * 40)
    assert locate(NAME, "transformer") == main
    assert locate(f"{NAME}@11111111", "transformer") == beside
