"""Weights of few bits on ComfyUI's layers, in this process: the same numbers as in the core, and LoRA on top."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cogvideox_core import load_lora, load_text_encoder, load_transformer
from tests.support.checkpoints import make_checkpoint, random_transformer, toy_transformer_config
from tests.support.parity import assert_parity, relative_difference, snr_db
from tests.support.weight_forms import (
    IN_INT8_ROWS,
    QUANTIZED,
    Writer,
    bitsandbytes_4_bits,
    bitsandbytes_int8,
    gguf_t5_name,
    k_blocks,
    quanto,
    t5_q5_k_m,
    true_gguf,
)

KIND = "CogVideoX1.5-5B"
K_QUANTS = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS", "IQ3_S", "IQ1_M")
FORMS = {
    **{form: write for form, (write, _) in QUANTIZED.items()},
    **{name: k_blocks(name) for name in K_QUANTS},
    "fp4 of bitsandbytes": bitsandbytes_4_bits("fp4"),
}
# What ComfyUI keeps in our layout: everything that it has no format of its own for.
IN_OUR_LAYOUT = [
    *("Q8_0 in safetensors", "Q4_0 in safetensors", "Q8_0.gguf", "Q5_0.gguf", "Q5_K", "nf4 of bitsandbytes, nested"),
    *("fp4 of bitsandbytes", "int8 of torchao, in groups", "fp8 of torchao", "fp8 of quanto"),
]


@pytest.fixture(scope="module")
def host(pack: ModuleType) -> Any:
    def module(name: str) -> ModuleType:
        return importlib.import_module(f"{pack.__name__}.nodes.host.types.{name}")

    return module


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return random_transformer(toy_transformer_config(KIND, text_embed_dim=64)).state_dict()


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    latents, prompt = torch.randn(1, 16, 4, 6, 8, generator=generator), torch.randn(1, 9, 64, generator=generator)
    return latents, torch.tensor([500.0]), prompt


def run(model: Any) -> Tensor:
    """A model of the core, or the diffusion model of a patcher."""
    latents, timestep, prompt = inputs()
    with torch.no_grad():
        if hasattr(model, "model"):
            return model.model.diffusion_model(latents, timestep, prompt)
        return model(latents, prompt, timestep)


def loaded(patcher: Any) -> Any:
    """A patcher with its patches in its weights, as ComfyUI's sampling makes it."""
    import comfy.model_management

    comfy.model_management.load_models_gpu([patcher])
    return patcher


@pytest.mark.parametrize("form", FORMS)
def test_the_host_computes_what_the_core_computes(form: str, host: Any, state: dict, tmp_path: Path) -> None:
    path = FORMS[form](state, tmp_path)
    ours = run(host("model").load_model(path, torch.float32))
    reference = run(load_transformer(path, dtype="float32"))
    if form in IN_INT8_ROWS:  # ComfyUI rounds activations to 8 bits as well
        assert snr_db(ours, reference) > 30
    else:
        assert_parity(ours, reference, 2e-5, f"{form} in the host")


@pytest.mark.parametrize("form", IN_OUR_LAYOUT)
def test_blocks_stay_blocks_in_memory_and_when_saved(form: str, host: Any, state: dict, tmp_path: Path) -> None:
    path = FORMS[form](state, tmp_path)
    patcher = host("model").load_model(path, torch.float32)
    layer = patcher.model.diffusion_model.transformer_blocks[0].ff.net[2]
    assert host("packed_weights").is_block_tensor(layer.weight) and layer.weight.shape == (128, 512)
    assert layer.weight.nbytes < 0.3 * 4 * 128 * 512
    tensors = patcher.model.diffusion_model.state_dict()
    saved = patcher.model.model_config.process_unet_state_dict_for_saving(tensors)
    save_file({key: tensor.contiguous() for key, tensor in saved.items()}, tmp_path / "saved.safetensors")
    assert_parity(run(load_transformer(tmp_path / "saved.safetensors", dtype="float32")), run(patcher), 1e-6, form)


@pytest.mark.parametrize(
    "form", ["16 bits", "fp8_scaled", "int8", "Q8_0.gguf", "Q4_0 in safetensors", "nf4 of bitsandbytes"]
)
def test_a_lora_goes_on_top(form: str, host: Any, state: dict, tmp_path: Path) -> None:
    save_file(state, tmp_path / "16 bits.safetensors")
    path = tmp_path / "16 bits.safetensors" if form == "16 bits" else FORMS[form](state, tmp_path)
    generator, lora = torch.Generator().manual_seed(1), {}
    for name in ("attn1.to_q", "attn1.to_out.0", "ff.net.0.proj"):
        rows, columns = state[f"transformer_blocks.1.{name}.weight"].shape
        own = f"transformer.transformer_blocks.1.{name}"
        lora[f"{own}.lora_A.weight"] = 0.5 * torch.randn(4, columns, generator=generator)
        lora[f"{own}.lora_B.weight"] = 0.5 * torch.randn(rows, 4, generator=generator)
    save_file(lora, tmp_path / "lora.safetensors")
    core = load_transformer(path, dtype="float32")
    plain = run(core)
    load_lora(core, tmp_path / "lora.safetensors", 0.6)
    wanted = run(core)
    assert relative_difference(wanted, plain) > 0.05
    base = host("model").load_model(path, torch.float32)
    patched, report = host("lora").add_lora(base, tmp_path / "lora.safetensors", 0.6)
    assert report.startswith("6 keys matched, for 3 layers; LoRA at scale 1 (not known: rank 4, ")
    if form in ("int8", "fp8_scaled"):  # the layer is rounded again with the LoRA in it
        assert snr_db(run(loaded(patched)), wanted) > 22
    else:
        assert_parity(run(loaded(patched)), wanted, 5e-5, f"LoRA over {form}")


@pytest.mark.parametrize("form", ["Q8_0.gguf", "int8", "fp8_scaled"])
def test_an_adapter_that_depends_on_the_weights_goes_on_top(form: str, host: Any, state: dict, tmp_path: Path) -> None:
    path, generator, dora = QUANTIZED[form][0](state, tmp_path), torch.Generator().manual_seed(1), {}
    for name in ("attn1.to_q", "ff.net.0.proj"):
        weight, own = state[f"transformer_blocks.1.{name}.weight"], f"base_model.model.transformer_blocks.1.{name}"
        rows, columns = weight.shape
        dora[f"{own}.lora_A.weight"] = 0.3 * torch.randn(4, columns, generator=generator)
        dora[f"{own}.lora_B.weight"] = 0.3 * torch.randn(rows, 4, generator=generator)
        dora[f"{own}.lora_magnitude_vector"] = 1.5 * weight.norm(dim=1)
    save_file(dora, tmp_path / "dora.safetensors")
    core = load_transformer(path, dtype="float32")
    plain = run(core)
    load_lora(core, tmp_path / "dora.safetensors", 0.6)
    assert relative_difference(run(core), plain) > 0.05
    base = host("model").load_model(path, torch.float32)
    patched, _ = host("lora").add_lora(base, tmp_path / "dora.safetensors", 0.6)
    if form == "Q8_0.gguf":
        assert_parity(run(loaded(patched)), run(core), 5e-5, f"DoRA over {form}")
    else:
        assert snr_db(run(loaded(patched)), run(core)) > 22


# How a T5 is written, and the dB its embeddings keep; none where the numbers are drawn.
T5_FORMS: dict[str, tuple[Writer, float]] = {
    "Q8_0": (true_gguf("Q8_0", gguf_t5_name, "t5encoder"), 35),
    "F16": (true_gguf("F16", gguf_t5_name, "t5encoder"), 55),
    "Q5_K_M": (t5_q5_k_m, float("-inf")),
    "nf4": (bitsandbytes_4_bits("nf4"), 15),
    "int8 of bitsandbytes": (bitsandbytes_int8, 35),
    "fp8 of quanto": (quanto(torch.float8_e4m3fn), 20),
}


@pytest.mark.parametrize("form", T5_FORMS)
def test_a_t5_of_few_bits_encodes_as_in_the_core(form: str, host: Any, tmp_path: Path) -> None:
    write, least = T5_FORMS[form]
    folder = make_checkpoint(tmp_path / "model", KIND, text_width=256)
    state = load_file(folder / "text_encoder" / "model.safetensors")
    state = {key: tensor for key, tensor in state.items() if key != "encoder.embed_tokens.weight"}
    reference = load_text_encoder(folder)(["a red circle"])
    place = tmp_path / form / "text_encoder"
    place.mkdir(parents=True)
    (place.parent / "tokenizer").symlink_to(folder / "tokenizer")
    path = write(state, place)
    clip = host("clip")
    tokens, _, _ = clip.tokenize(opened := clip.load_clip(path), "a red circle")
    embeds = opened.encode_from_tokens(tokens)
    core = load_text_encoder(path, dtype="float32")(["a red circle"])
    assert_parity(embeds.float(), core, 5e-3, f"T5 in {form} in the host")
    assert snr_db(core, reference) > least
