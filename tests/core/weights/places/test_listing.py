"""What model folders hold: files, diffusers folders, and downloads in Hugging Face's cache by their readable names."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cogvideox_core.weights.places.listing import Kind, models_in
from tests.support.hub_cache import FIRST, SECOND, add_to_cache

NAME = "zai-org/CogVideoX-5b"
PARTS = ("transformer", "vae", "text_encoder")


def write(path: Path, content: object = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("" if content is None else json.dumps(content))
    return path


def component(folder: Path, name: str = "CogVideoXTransformer3DModel") -> Path:
    """The folder of a component, by its files alone."""
    write(folder / "config.json", {"_class_name": name})
    write(folder / "diffusion_pytorch_model.safetensors")
    return folder


def model(folder: Path, *parts: str, pipeline: str = "CogVideoXPipeline") -> Path:
    """A whole folder, by its files alone."""
    write(folder / "model_index.json", {"_class_name": pipeline, "text_encoder": ["transformers", "T5EncoderModel"]})
    for part in parts or PARTS:
        component(folder / part)
    return folder


def names(root: Path, kind: Kind = "transformer") -> list[str]:
    """Of what is in one folder of diffusers models."""
    return sorted(models_in(lambda name: [root] if name == "diffusers" else [], kind))


def test_what_training_leaves_is_offered_as_its_folder_without_the_states_beside_it(tmp_path: Path) -> None:
    run = tmp_path / "diffusion_models" / "run"
    weights = ["1000/mp_rank_00_model_states.pt", "2000/mp_rank_00_model_states.pt", "shards/pytorch_model-1-of-2.bin"]
    states = ["1000/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt", "optimizer.bin", "scheduler.bin", "rng_state.pth"]
    for name in (*weights, *states, "latest", "shards/pytorch_model.bin.index.json"):
        write(run / name)
    found = models_in(lambda name: [tmp_path / name] if (tmp_path / name).is_dir() else [], "transformer")
    assert sorted(found) == sorted(["run", "run/shards", *(f"run/{name}" for name in weights)])
    assert found["run"] == run and found["run/shards"] == run / "shards"


def test_each_kind_has_folders_of_its_own_and_diffusers_folders_are_for_all(tmp_path: Path) -> None:
    files = {
        "transformer": "diffusion_models/5b.gguf",
        "vae": "vae/deep/vae.safetensors",
        "text_encoder": "text_encoders/t5.PT",
        "lora": "loras/orbit.safetensors",
    }
    for file in [*files.values(), "vae/notes.txt", "loras/.hidden.safetensors"]:
        write(tmp_path / file)
    model(tmp_path / "diffusers" / "CogVideoX-5b")
    model(tmp_path / "diffusers" / "transformer alone", "transformer")
    for kind in files:
        found = models_in(lambda name: [tmp_path / name] if (tmp_path / name).is_dir() else [], kind)
        own = files[kind].partition("/")[2]
        whole = [] if kind == "lora" else ["CogVideoX-5b"]
        assert sorted(found) == sorted([own, *whole, *(["transformer alone"] if kind == "transformer" else [])])
        assert found[own] == tmp_path / files[kind]


def test_what_comes_first_keeps_its_name(tmp_path: Path) -> None:
    write(tmp_path / "loras" / "mine.safetensors")
    first = {"mine.safetensors": Path("/elsewhere")}
    assert models_in(lambda name: [tmp_path / name] if name == "loras" else [], "lora", first) == first


def test_the_cache_of_hugging_face_is_listed_by_its_repositories(tmp_path: Path) -> None:
    hub = tmp_path / "hub"
    old = add_to_cache(hub, NAME, model(tmp_path / "old"), FIRST)
    new = add_to_cache(hub, NAME, model(tmp_path / "new"), SECOND)
    found = models_in(lambda name: [hub] if name == "diffusers" else [], "transformer")
    assert found == {NAME: new, f"{NAME}@11111111": old}
    assert names(hub, "vae") == names(hub, "text_encoder") == sorted(found)


def test_of_the_cache_only_what_is_cogvideoxs_is_listed(tmp_path: Path) -> None:
    hub = tmp_path / "hub"
    add_to_cache(hub, "black-forest-labs/FLUX.1-dev", model(tmp_path / "flux", pipeline="FluxPipeline"))
    add_to_cache(hub, "Qwen/Qwen3", component(tmp_path / "qwen", "Qwen3ForCausalLM"))
    write(tmp_path / "t5" / "config.json", {"model_type": "t5"})
    write(tmp_path / "t5" / "model.safetensors")
    add_to_cache(hub, "google/t5-v1_1-xxl", tmp_path / "t5")
    add_to_cache(hub, "someone/transformer", component(tmp_path / "one"))
    add_to_cache(hub, "someone/unfinished", model(tmp_path / "unfinished", "transformer"))
    assert names(hub) == ["someone/transformer", "someone/unfinished"]
    assert names(hub, "vae") == ["someone/transformer"]
    assert names(hub, "text_encoder") == ["google/t5-v1_1-xxl"]


@pytest.mark.parametrize("below", ["", "hub"])
def test_a_download_of_one_component_is_found_wherever_the_cache_is(tmp_path: Path, below: str) -> None:
    component(tmp_path / "part" / "transformer")
    snapshot = add_to_cache(tmp_path / "diffusers" / below, NAME, tmp_path / "part")
    found = models_in(lambda name: [tmp_path / "diffusers"] if name == "diffusers" else [], "transformer")
    name = "/".join(filter(None, [below, NAME, "transformer"]))
    assert found == {name: snapshot / "transformer"}


def test_a_folder_of_the_cache_may_be_given_alone(tmp_path: Path) -> None:
    snapshot = add_to_cache(tmp_path / "hub", NAME, model(tmp_path / "model"))
    for root in (snapshot.parents[1], snapshot):
        found = models_in(lambda name, root=root: [root] if name == "diffusers" else [], "vae")
        assert list(found.values()) == [snapshot]
        assert list(found) == ([NAME] if root != snapshot else [FIRST])


def test_what_is_downloaded_meanwhile_appears(tmp_path: Path) -> None:
    hub = tmp_path / "hub"
    add_to_cache(hub, NAME, model(tmp_path / "one"))
    assert names(hub) == [NAME]
    add_to_cache(hub, "zai-org/CogVideoX-2b", tmp_path / "one")
    assert names(hub) == ["zai-org/CogVideoX-2b", NAME]


def test_folders_are_walked_again_only_when_one_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models" / "deep" / "deeper").mkdir(parents=True)
    walked: list[Path] = []
    walk = os.walk
    monkeypatch.setattr(os, "walk", lambda root, **options: walked.append(Path(root)) or walk(root, **options))

    def loras() -> list[str]:
        walked.clear()
        return list(models_in(lambda name: [tmp_path / "models"] if name == "loras" else [], "lora"))

    def is_long_ago() -> None:
        for folder, _, _ in walk(tmp_path):
            os.utime(folder, (0, 0))

    is_long_ago()
    assert loras() == [] and walked == [tmp_path / "models"]
    assert loras() == [] and walked == [], "nothing has changed"
    write(tmp_path / "models" / "deep" / "deeper" / "new.safetensors")
    assert loras() == ["deep/deeper/new.safetensors"] and walked == [tmp_path / "models"]
    assert loras() == ["deep/deeper/new.safetensors"] and walked, "a change right after may have the same time"
    is_long_ago()
    assert loras() and walked
    assert loras() and walked == []
    (tmp_path / "models" / "deep").rename(tmp_path / "elsewhere")
    assert loras() == [] and walked
