"""Where the loaders look: ComfyUI's folders, those of extra_model_paths.yaml, and the CogVideoX wrapper's downloads."""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel
from safetensors.torch import load_file

from tests.support.graphs import node, saved_latent, text_to_video
from tests.support.host import Host
from tests.support.hub_cache import FIRST, SECOND, add_to_cache
from tests.support.parity import assert_parity
from tests.support.trainer_folders import accelerate_state, deepspeed_folder, shards
from tests.support.weight_forms import blocks_in_safetensors, sat, true_gguf

KIND = "CogVideoX-5B"


def choices(host: Host, loader: str, field: str) -> list[str]:
    return host.object_info(loader)["input"]["required"][field][1]["options"]


def models(host: Host) -> list[str]:
    return choices(host, "CogVideoXLoadModel", "model_name")


@pytest.fixture(scope="module")
def state(toys: dict[str, Path]) -> dict[str, torch.Tensor]:
    return load_file(toys[KIND] / "transformer" / "diffusion_pytorch_model.safetensors")


def put(host: Host, path: Path, place: str) -> None:
    target = host.folder / "models" / place
    target.parent.mkdir(parents=True, exist_ok=True)
    target.symlink_to(path)


def test_the_wrappers_downloads_are_found(host: Host, toys: dict[str, Path], state: dict, tmp_path: Path) -> None:
    put(host, toys[KIND], "CogVideo/CogVideoX-5b")
    put(host, toys[KIND], "CogVideoX_Fun/CogVideoX-Fun-5b")
    put(host, blocks_in_safetensors("Q4_0")(state, tmp_path), "CogVideo/GGUF/CogVideoX_5b_Q4_0.safetensors")
    put(host, toys[KIND] / "vae" / "diffusion_pytorch_model.safetensors", "CogVideo/VAE/cogvideox_vae.safetensors")
    (tmp_path / "one.safetensors").write_bytes(b"")
    put(host, tmp_path / "one.safetensors", "CogVideo/loras/orbit.safetensors")
    assert {"CogVideoX-5b", "CogVideoX-Fun-5b", "GGUF/CogVideoX_5b_Q4_0.safetensors"} <= set(models(host))
    vaes = choices(host, "CogVideoXLoadVAE", "vae_name")
    assert {"VAE/cogvideox_vae.safetensors", "CogVideoX-5b"} <= set(vaes)
    assert "CogVideoX-5b" in choices(host, "CogVideoXLoadT5", "text_encoder_name")
    assert "loras/orbit.safetensors" in choices(host, "CogVideoXLoadLoRA", "lora_name")
    assert not [name for name in models(host) if "loras" in name or "VAE" in name]


def test_every_form_is_offered_and_runs(host: Host, toys: dict[str, Path], state: dict, tmp_path: Path) -> None:
    wanted = saved_latent(host, host.run(text_to_video(KIND)))
    folder = sat(state, tmp_path / "sat")
    put(host, true_gguf("F16")(state, tmp_path), "diffusion_models/small/\u6a21\u578b F16.gguf")
    put(host, folder / "1000" / "mp_rank_00_model_states.pt", "diffusion_models/states.pt")
    for name, bound in (("small/\u6a21\u578b F16.gguf", 5e-3), ("states.pt", 1e-5)):
        assert name in models(host)
        graph = text_to_video(KIND)
        graph["model"]["inputs"]["model_name"] = name
        assert_parity(saved_latent(host, host.run(graph)), wanted, bound, name)


def test_folders_that_training_leaves_are_offered_and_run(
    host: Host, toys: dict[str, Path], state: dict, tmp_path: Path
) -> None:
    """DeepSpeed's, by the folder with `latest`; and .bin in shards, of which one by itself is enough."""
    wanted = saved_latent(host, host.run(text_to_video(KIND)))
    model = CogVideoXTransformer3DModel.from_pretrained(toys[KIND] / "transformer")
    put(host, deepspeed_folder(state, tmp_path / "run"), "diffusion_models/my run/checkpoint-500")
    put(host, shards(safe_serialization=False)(model, tmp_path), "diffusion_models/in shards")
    put(host, accelerate_state()(model, tmp_path / "other"), "diffusion_models/accelerate")
    offered = models(host)
    for name in (
        "my run/checkpoint-500",
        "my run/checkpoint-500/pytorch_model/mp_rank_00_model_states.pt",
        "in shards",
        "in shards/diffusion_pytorch_model-00002-of-00003.bin",
        "accelerate/model.safetensors",
    ):
        assert name in offered
        graph = text_to_video(KIND)
        graph["model"]["inputs"]["model_name"] = name
        assert_parity(saved_latent(host, host.run(graph)), wanted, 1e-5, name)
    assert not [name for name in offered if "optim" in name or "scheduler" in name]


def test_a_workflow_from_windows_opens(host: Host, toys: dict[str, Path]) -> None:
    put(host, toys[KIND], "diffusers/ordner/unterordner/Modell")
    graph = text_to_video(KIND)
    for loader, field in (("model", "model_name"), ("vae", "vae_name"), ("t5", "text_encoder_name")):
        graph[loader]["inputs"][field] = "ordner\\unterordner\\Modell"
    assert host.run(graph).status == "success"


def test_extra_model_paths_are_looked_through(
    start_host: Callable[..., Host], toys: dict[str, Path], tmp_path: Path
) -> None:
    for place in ("unet", "wrapper"):
        (tmp_path / place).mkdir()
    os.symlink(
        toys[KIND] / "transformer" / "diffusion_pytorch_model.safetensors", tmp_path / "unet" / "far.safetensors"
    )
    os.symlink(toys[KIND], tmp_path / "wrapper" / "CogVideoX-far")
    settings = tmp_path / "extra.yaml"
    settings.write_text(f"mine:\n  base_path: {tmp_path}\n  diffusion_models: unet\n  CogVideo: wrapper\n")
    far = start_host("--extra-model-paths-config", str(settings))
    assert {"far.safetensors", "CogVideoX-far"} <= set(models(far))
    graph = text_to_video("CogVideoX-far", steps=1)
    graph["model"]["inputs"]["model_name"] = "far.safetensors"
    assert saved_latent(far, far.run(graph)).isfinite().all()


def test_a_folder_with_a_transformer_alone_is_a_model(host: Host, toys: dict[str, Path], tmp_path: Path) -> None:
    """People keep one T5 and one VAE for all models."""
    wanted = saved_latent(host, host.run(text_to_video(KIND)))
    folder = Path(shutil.copytree(toys[KIND], tmp_path / "without"))
    for part in ("vae", "text_encoder", "tokenizer"):
        shutil.rmtree(folder / part)
    put(host, folder, "diffusers/without")
    assert "without" in models(host)
    assert "without" not in choices(host, "CogVideoXLoadVAE", "vae_name")
    assert "without" not in choices(host, "CogVideoXLoadT5", "text_encoder_name")
    graph = text_to_video(KIND)
    graph["model"]["inputs"]["model_name"] = "without"
    assert torch.equal(saved_latent(host, host.run(graph)), wanted)


def test_hugging_faces_cache_may_be_a_folder_of_models(
    pack: ModuleType, toys: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`diffusers: ~/.cache/huggingface/hub` in extra_model_paths.yaml, before which ComfyUI puts its own folder."""
    import folder_paths

    listing = importlib.import_module(f"{pack.__name__}.nodes.host.types.folders")
    hub = tmp_path / "home" / ".cache" / "huggingface" / "hub"
    old = add_to_cache(hub, "zai-org/CogVideoX-5b", toys[KIND], FIRST)
    new = add_to_cache(hub, "zai-org/CogVideoX-5b", toys[KIND], SECOND)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    root = str(tmp_path / "ComfyUI" / "~" / ".cache" / "huggingface" / "hub")
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "diffusers", ([root], {"folder"}))
    for component in ("transformer", "vae", "text_encoder"):
        names = [name for name in listing.choices(component) if "CogVideoX-5b" in name]
        assert sorted(names) == ["zai-org/CogVideoX-5b", "zai-org/CogVideoX-5b@11111111"]
    assert listing.chosen("transformer", "zai-org/CogVideoX-5b") == new
    assert listing.chosen("transformer", "zai-org\\CogVideoX-5b@11111111") == old
    saved = f"models--zai-org--CogVideoX-5b/snapshots/{FIRST}"
    assert listing.chosen("vae", saved) == new, "a workflow saved when names were paths, or on another machine"


def test_links_that_lead_in_circles_end(host: Host) -> None:
    loop = host.folder / "models" / "diffusion_models" / "loop"
    loop.symlink_to(loop.parent)
    try:
        assert not [name for name in models(host) if name.count("loop") > 1]
    finally:
        loop.unlink()


def test_links_to_one_folder_stay_apart(host: Host, toys: dict[str, Path]) -> None:
    for name in ("this", "that"):
        put(host, toys[KIND], f"diffusers/linked/{name}")
    assert {"linked/this", "linked/that"} <= set(models(host))


@pytest.mark.parametrize(
    ("folder", "loader", "field"),
    [
        ("diffusion_models", "CogVideoXLoadModel", "model_name"),
        ("vae", "CogVideoXLoadVAE", "vae_name"),
        ("text_encoders", "CogVideoXLoadT5", "text_encoder_name"),
        ("loras", "CogVideoXLoadLoRA", "lora_name"),
    ],
)
def test_what_comes_and_goes_is_seen_without_a_restart(host: Host, folder: str, loader: str, field: str) -> None:
    file = host.folder / "models" / folder / "just now.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    assert file.name not in choices(host, loader, field)
    file.write_bytes(b"")
    assert file.name in choices(host, loader, field)
    file.unlink()
    assert file.name not in choices(host, loader, field)


def test_a_choice_that_is_gone_is_told(host: Host) -> None:
    from tests.support.host import PromptRejected

    graph = {
        "model": node("CogVideoXLoadModel", model_name="gone.safetensors"),
        "any": node("PreviewAny", source=["model", 0]),
    }
    with pytest.raises(PromptRejected, match="'gone.safetensors' is not among the models; put the file"):
        host.run(graph)
