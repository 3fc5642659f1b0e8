"""Inspecting files: what they are, how they are stored, and whether they are complete."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cogvideox_core.weights.inspect import inspect, report
from tests.support.checkpoints import whole_model
from tests.support.weight_forms import QUANTIZED, RENAMED, sat_with_t5_and_vae

Checkpoint = Callable[..., Path]


KIND = "CogVideoX1.5-5B-I2V"


@pytest.fixture(scope="module")
def model(checkpoint: Checkpoint) -> Path:
    return checkpoint(KIND, text_width=64, dtype=torch.bfloat16)


def test_a_whole_folder_is_told_part_by_part(model: Path) -> None:
    transformer, vae, text = inspect(model)
    assert transformer.variant == KIND and transformer.what == "a CogVideoX transformer"
    assert vae.what == "a CogVideoX VAE" and text.what == "a T5 text encoder"
    for found in (transformer, vae, text):
        assert not found.fault and not found.missing and not found.unexpected
        assert found.numbers == {"bfloat16": found.parameters} and found.nbytes == 2 * found.parameters
        assert "complete: no key is missing or left over" in report(found)


@pytest.mark.parametrize("form", [*RENAMED, *QUANTIZED])
def test_every_form_says_what_it_is(form: str, model: Path, tmp_path: Path) -> None:
    write = RENAMED[form] if form in RENAMED else QUANTIZED[form][0]
    (found,) = inspect(write(load_file(model / "transformer" / "diffusion_pytorch_model.safetensors"), tmp_path))
    assert found.variant == KIND and not found.fault and not found.missing and not found.unexpected, report(found)
    told = {"com": "ComfyUI", "sat": "SAT under model.diffusion_model."}.get(form[:3], "diffusers")
    assert any(part.startswith(told) for part in found.form), found.form


def test_a_file_that_holds_a_whole_model_is_told_part_by_part(tmp_path: Path) -> None:
    found = inspect(sat_with_t5_and_vae(*whole_model(), tmp_path))
    assert [one.what for one in found] == ["a CogVideoX transformer", "a CogVideoX VAE", "a T5 text encoder"]
    assert found[0].variant == KIND
    for one in found:
        assert not one.fault and not one.missing and not one.unexpected, report(one)


def test_what_is_missing_or_left_over_is_listed(model: Path, tmp_path: Path) -> None:
    tensors = load_file(model / "transformer" / "diffusion_pytorch_model.safetensors")
    lost = tensors.pop("transformer_blocks.1.ff.net.2.bias")
    save_file(tensors | {"strange.weight": lost}, tmp_path / "a.safetensors")
    (found,) = inspect(tmp_path / "a.safetensors")
    assert found.missing == ["transformer_blocks.1.ff.net.2.bias"] and found.unexpected == ["strange.weight"]
    assert "1 keys missing:\n    transformer_blocks.1.ff.net.2.bias" in report(found)


def test_a_lora_and_a_stranger_are_told(tmp_path: Path) -> None:
    lora = {f"transformer.transformer_blocks.0.attn1.to_q.lora_{part}.weight": torch.ones(8, 8) for part in "AB"}
    save_file(lora, tmp_path / "lora.safetensors")
    save_file({"fc.weight": torch.ones(2)}, tmp_path / "else.safetensors")
    assert inspect(tmp_path / "lora.safetensors")[0].what == "a LoRA of rank 8 for 1 layers"
    assert inspect(tmp_path / "else.safetensors")[0].what == "nothing that is known"


def test_other_adapters_are_named(tmp_path: Path) -> None:
    lokr = {
        f"lycoris_transformer_blocks_{block}_attn1_to_q.lokr_w{part}": torch.ones(4, 4)
        for block in range(3)
        for part in (1, 2)
    }
    norms = {"lycoris_norm_out_norm.w_norm": torch.ones(8), "lycoris_norm_out_norm.b_norm": torch.ones(8)}
    save_file(lokr, tmp_path / "lokr.safetensors")
    save_file(lokr | norms, tmp_path / "both.safetensors")
    save_file({"lycoris_x.q_layer.weight": torch.ones(2, 8)}, tmp_path / "else.safetensors")
    found = [inspect(tmp_path / f"{name}.safetensors")[0].what for name in ("lokr", "both", "else")]
    assert found[0] == "an adapter (LoKr) for 3 layers"
    assert found[1] == "an adapter (differences, LoKr) for 4 layers"
    assert found[2] == "an adapter of a kind that is not read"
