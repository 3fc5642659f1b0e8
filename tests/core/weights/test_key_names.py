"""Every form of file, one answer: a model opens the same whatever program wrote it, and in few bits nearly the same."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cogvideox_core import load_transformer, load_vae
from cogvideox_core.models.transformer.model import CogVideoXTransformer3D
from cogvideox_core.weights.components import open_component
from cogvideox_core.weights.errors import CheckpointError
from cogvideox_core.weights.load import read_transformer
from cogvideox_core.weights.packed_weight import PackedWeight
from tests.support.checkpoints import (
    OFFICIAL,
    make_checkpoint,
    random_transformer,
    random_vae,
    toy_transformer_config,
    toy_vae_config,
)
from tests.support.parity import assert_parity, snr_db
from tests.support.weight_forms import (
    QUANTIZED,
    RENAMED,
    gguf_t5_name,
    is_quantizable,
    k_blocks,
    prefixed,
    sat,
    sat_vae,
    true_gguf,
)

KINDS = list(OFFICIAL)
WIDE = dict(num_attention_heads=2, text_embed_dim=64)  # whole blocks of 32 everywhere


def state_of(kind: str) -> dict[str, Tensor]:
    return random_transformer(toy_transformer_config(kind, **WIDE)).state_dict()


def output(model: CogVideoXTransformer3D) -> Tensor:
    config = model.config
    generator = torch.Generator().manual_seed(0)
    rows, columns = (config.sample_height, config.sample_width) if config.use_learned_positional_embeddings else (6, 8)
    frames, length = (5, 226) if config.use_learned_positional_embeddings else (2 * config.frame_patch, 7)
    latents = torch.randn(1, config.in_channels, frames, rows, columns, generator=generator)
    prompt = torch.randn(1, length, config.text_embed_dim, generator=generator)
    dtype = model.proj_out.bias.dtype
    return model(latents.to(dtype), prompt.to(dtype), torch.tensor([500])).float()


def with_config(path: Path, kind: str) -> Path:
    """What no tensor of a toy shows, its size, has to come along: beside a folder's weights or in a file's header."""
    config = json.dumps(toy_transformer_config(kind, **WIDE))
    if path.is_dir():
        (path / "config.json").write_text(config)
    else:
        save_file(load_file(path), path, metadata={"config": config})
    return path


@pytest.mark.parametrize("form", RENAMED)
@pytest.mark.parametrize("kind", KINDS)
def test_other_names_are_the_same_model(kind: str, form: str, tmp_path: Path) -> None:
    state = state_of(kind)
    path = with_config(RENAMED[form](state, tmp_path), kind)
    model = load_transformer(path)
    assert model.variant.name == kind
    loaded = model.state_dict()
    assert loaded.keys() == state.keys()
    for key, tensor in state.items():
        assert torch.equal(loaded[key], tensor), key


@pytest.mark.parametrize("form", QUANTIZED)
@pytest.mark.parametrize("kind", ["CogVideoX-5B", "CogVideoX1.5-5B-I2V"])
def test_few_bits_are_nearly_the_same_model(kind: str, form: str, tmp_path: Path) -> None:
    write, least = QUANTIZED[form]
    state = state_of(kind)
    reference = output(load_transformer(prefixed("")(state, tmp_path)))
    path = write(state, tmp_path)
    model = load_transformer(path, dtype="float32")
    assert model.variant.name == kind
    measured = snr_db(output(model), reference)
    print(f"forms | {kind} | {form} | {measured:.1f} dB")
    assert least <= measured
    small = {key for key, tensor in model.state_dict().items() if isinstance(tensor, PackedWeight)}
    if form not in ("F16.gguf", "BF16.gguf"):
        assert small >= set(filter(is_quantizable, state))
        held = sum(tensor.nbytes for key, tensor in model.state_dict().items() if is_quantizable(key))
        assert held < 0.3 * sum(tensor.nbytes for key, tensor in state.items() if is_quantizable(key)) * 1.1
    assert not [key for key in small if key.endswith("bias")]


@pytest.mark.parametrize("name", ["Q4_K", "Q6_K"])
def test_k_quants_are_the_numbers_that_gguf_reads_from_them(name: str, tmp_path: Path) -> None:
    state = state_of("CogVideoX-5B")
    path = k_blocks(name)(state, tmp_path)
    model, dense = load_transformer(path, dtype="float32"), dict(state)
    held = {key for key, tensor in model.state_dict().items() if isinstance(tensor, PackedWeight)}
    for tensor in gguf.GGUFReader(path).tensors:
        if tensor.tensor_type.name == name:
            dense[tensor.name] = torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type).copy())
    assert held == {key for key in state if dense[key] is not state[key]} != set()
    (tmp_path / "dense").mkdir()
    reference = load_transformer(prefixed("")(dense, tmp_path / "dense"), dtype="float32")
    assert_parity(output(model), output(reference), 1e-5, f"{name} in a file")


def test_quantized_weights_decode_into_the_dtype_the_model_computes_in(tmp_path: Path) -> None:
    state = {key: tensor.bfloat16() for key, tensor in state_of("CogVideoX-5B").items()}
    path = QUANTIZED["int8"][0](state, tmp_path)
    for asked, dtype in ((None, torch.bfloat16), ("float16", torch.float16), ("float32", torch.float32)):
        model = load_transformer(path, dtype=asked)
        assert {tensor.dtype for tensor in model.state_dict().values()} == {dtype}


def test_the_sines_sat_stores_for_2b_are_dropped_and_the_table_of_an_image_model_is_kept(tmp_path: Path) -> None:
    two = with_config(sat(state_of("CogVideoX-2B"), tmp_path / "2b"), "CogVideoX-2B")
    assert not read_transformer(two).config.use_learned_positional_embeddings
    image = with_config(sat(state_of("CogVideoX-5B-I2V"), tmp_path / "i2v"), "CogVideoX-5B-I2V")
    assert read_transformer(image).config.use_learned_positional_embeddings


def test_a_vae_of_sat_is_the_same_vae(tmp_path: Path) -> None:
    state = random_vae(toy_vae_config("CogVideoX-5B")).state_dict()
    (tmp_path / "config.json").write_text(json.dumps(toy_vae_config("CogVideoX-5B")))
    sat_vae(state, tmp_path)
    loaded = load_vae(tmp_path).state_dict()
    assert loaded.keys() == state.keys()
    for key, tensor in state.items():
        assert torch.equal(loaded[key], tensor), key


@pytest.mark.parametrize("prefix", ["first_stage_model.", "vae."])
def test_one_file_may_hold_a_whole_model(prefix: str, tmp_path: Path) -> None:
    transformer, vae = state_of("CogVideoX-5B"), random_vae(toy_vae_config("CogVideoX-5B")).state_dict()
    tensors = {"model.diffusion_model." + key: tensor for key, tensor in transformer.items()}
    tensors |= {prefix + key: tensor for key, tensor in vae.items()}
    tensors["cond_stage_model.logit_scale"] = torch.zeros(())
    path = prefixed("")(tensors, tmp_path)
    assert load_transformer(path).state_dict().keys() == transformer.keys()
    assert open_component(path, "vae").shapes == {key: tuple(tensor.shape) for key, tensor in vae.items()}


def test_a_t5_of_llama_cpp_is_the_same_t5(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "model", "CogVideoX-5B", text_width=64)
    state = load_file(folder / "text_encoder" / "model.safetensors")
    state = {key: tensor for key, tensor in state.items() if key != "encoder.embed_tokens.weight"}
    path = true_gguf("Q8_0", gguf_t5_name, "t5encoder")(state, tmp_path)
    opened = open_component(path, "text_encoder")
    assert opened.shapes == {key: tuple(tensor.shape) for key, tensor in state.items()}
    for key, tensor in state.items():
        assert snr_db(opened[key].to(torch.float32) + 0, tensor) > 40, key


@pytest.mark.parametrize("form", ["int8", "fp8_scaled"])
def test_scales_that_do_not_fit_are_told(form: str, tmp_path: Path) -> None:
    path = QUANTIZED[form][0](state_of("CogVideoX-5B"), tmp_path)
    tensors = load_file(path)
    key = next(filter(is_quantizable, tensors))
    scale = key.replace(".weight", ".weight_scale")
    save_file(tensors | {scale: torch.ones(3)}, path)
    with pytest.raises(CheckpointError, match=f"holds 3 scales for the 128 rows of {key}; there is one for each row"):
        load_transformer(path)
    note = torch.tensor(list(b'{"format": "nvfp4"}'), dtype=torch.uint8)
    save_file(tensors | {key.replace(".weight", ".comfy_quant"): note}, path)
    with pytest.raises(CheckpointError, match=f"holds {key} in the format nvfp4; read are "):
        load_transformer(path)
    save_file(tensors | {key.replace(".weight", ".comfy_quant"): note[:5]}, path)
    with pytest.raises(CheckpointError, match="comfy_quant that is no JSON"):
        load_transformer(path)


def test_blocks_that_do_not_fit_are_told(tmp_path: Path) -> None:
    path = QUANTIZED["Q4_0 in safetensors"][0](state_of("CogVideoX-5B"), tmp_path)
    tensors = load_file(path)
    key = next(key for key in tensors if key.endswith("_qweight"))
    blocks = tensors.pop(key)
    save_file(tensors | {key: blocks[:, :-1].contiguous()}, path)
    with pytest.raises(CheckpointError, match="which are no rows of Q4_0 blocks of 18 bytes"):
        load_transformer(path)
    save_file(tensors | {key.replace("Q4_0", "Q3_X"): blocks}, path)
    with pytest.raises(CheckpointError, match="in Q3_X, which is not read; give one of Q4_0, Q5_0, Q8_0, Q4_K, Q6_K"):
        load_transformer(path)
