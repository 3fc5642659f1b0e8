"""Adapters on ComfyUI's MODEL, in this process: as their libraries compute them, and by ComfyUI's own loader."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from cogvideox_core import load_lora, load_transformer
from tests.support.adapter_forms import FORMS, LYCORIS_FORMS, Adapted, base, inputs, peft
from tests.support.lora_forms import ALL, DIFFSYNTH, pairs_of, renamed, save, to_peft
from tests.support.parity import assert_parity, relative_difference


@pytest.fixture(scope="module")
def host(pack: ModuleType) -> Any:
    def module(name: str) -> ModuleType:
        return importlib.import_module(f"{pack.__name__}.nodes.host.{name}")

    module("features.lora_names").install()
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    base().save_pretrained(folder)
    return folder


@pytest.fixture
def model(host: Any, folder: Path) -> Any:
    return host("types.model").load_model(folder, torch.float32)


def run(patcher: Any) -> Tensor:
    """What a MODEL predicts with its patches in its weights, as ComfyUI's sampling makes it."""
    import comfy.model_management

    comfy.model_management.load_models_gpu([patcher])
    latents, prompt, timestep = inputs()
    with torch.no_grad():
        return patcher.model.diffusion_model(latents, timestep.float(), prompt)


@pytest.mark.parametrize("form", FORMS)
def test_our_node_does_what_the_library_does(form: str, host: Any, model: Any, tmp_path: Path) -> None:
    adapted = FORMS[form].make(base(), tmp_path / "adapter")
    files = [adapted.path] if adapted.path.is_file() else sorted(adapted.path.glob("*.safetensors"))
    patched, report = host("types.lora").add_lora(model, files[0], 1.0)
    assert_parity(run(patched), adapted(), 2e-5, f"{form} in the host")
    assert report.endswith(FORMS[form].report)


@pytest.mark.parametrize("form", ["LoKr, PEFT", "DoRA, PEFT", "OFT, LyCORIS", "LoRA with lora_bias, PEFT"])
def test_strengths_and_stacks_are_those_of_the_core(
    form: str, host: Any, model: Any, folder: Path, tmp_path: Path
) -> None:
    core, path = load_transformer(folder, dtype="float32"), FORMS[form].make(base(), tmp_path / "adapter").path
    lora = save(to_peft(pairs_of(core)), tmp_path / "lora.safetensors")
    plain = run(model)
    patched = model
    for file, strength in ((lora, 0.5), (path, -0.4), (lora, 0.3)):
        load_lora(core, file, strength)
        file = file if file.is_file() else file / "adapter_model.safetensors"
        patched, _ = host("types.lora").add_lora(patched, file, strength)
    assert_parity(run(patched), core(*inputs()), 2e-5, f"{form} between two LoRAs")
    assert_parity(run(model), plain, 1e-6, "the model it was put on")


@pytest.mark.parametrize("form", ["LoKr, PEFT", "DoRA, PEFT", "BOFT, LyCORIS"])
def test_comfyui_can_bring_the_parts_to_a_device_by_itself(form: str, host: Any, tmp_path: Path) -> None:
    import comfy.lora

    core = load_lora(base_of(tmp_path), FORMS[form].make(base(), tmp_path / "adapter").path).file
    delta = core.deltas["transformer_blocks.0.attn1.to_q"]
    adapter, weight = host("types.weight_adapter").CoreAdapter.of(delta), torch.randn(128, 128)
    brought = comfy.lora.prefetch_prepared_value(adapter, [0], None, None, False)
    assert type(brought) is type(adapter) and brought is not adapter
    patch = [(0.7, brought, 1.0, None, None)]
    found = comfy.lora.calculate_weight(patch, weight.clone(), "a.weight")
    assert_parity(found, delta.at_strength(weight, 0.7), 1e-6, form)


def base_of(folder: Path) -> Any:
    base().save_pretrained(folder / "base")
    return load_transformer(folder / "base", dtype="float32")


# --- ComfyUI's own loader -------------------------------------------------------------------------------------------


def loaded_by_comfyui(model: Any, path: Path, strength: float = 1.0) -> Any:
    import comfy.sd

    return comfy.sd.load_lora_for_models(model, None, load_file(path), strength, 0)[0]


@pytest.mark.parametrize("form", ["LoRA", "LoRA in three", "LoHa", "LoKr", "GLoRA", "differences", "OFT"])
def test_comfyuis_own_adapters_find_our_layers(
    form: str, host: Any, model: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    adapted = LYCORIS_FORMS[form].make(base(), tmp_path / "adapter")
    patched = loaded_by_comfyui(model, adapted.path)
    assert_parity(run(patched), adapted(), 2e-5, f"{form} by ComfyUI")
    assert "lora key not loaded" not in caplog.text


def test_comfyuis_own_loader_knows_names_of_peft_and_diffsynth(host: Any, model: Any, tmp_path: Path) -> None:
    lokr: Adapted = peft("LoKrConfig", r=4, alpha=4)(base(), tmp_path / "adapter")
    patched = loaded_by_comfyui(model, lokr.path / "adapter_model.safetensors")
    assert_parity(run(patched), lokr(), 2e-5, "PEFT's LoKr of scale 1 by ComfyUI")
    core = base_of(tmp_path)
    file = renamed(DIFFSYNTH, adapter=".default")(pairs_of(core, ALL), tmp_path / "lora.safetensors")
    plain = core(*inputs())
    load_lora(core, file, 0.5)
    assert relative_difference(core(*inputs()), plain) > 0.05
    assert_parity(run(loaded_by_comfyui(model, file, 0.5)), core(*inputs()), 2e-5, "DiffSynth's names by ComfyUI")
