"""Quantized weights in every form of file: nearly the same model, and parts that do not fit are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cogvideox_core import load_transformer
from cogvideox_core.models.variants import VARIANTS
from cogvideox_core.weights.errors import CheckpointError
from cogvideox_core.weights.packed_weight import PackedWeight
from tests.support.parity import snr_db
from tests.support.toy_transformers import output, state_of
from tests.support.weight_forms import (
    QUANTIZED,
    is_quantizable,
    prefixed,
)


@pytest.mark.parametrize("form", QUANTIZED)
@pytest.mark.parametrize("kind", ["CogVideoX-5B", "CogVideoX1.5-5B-I2V"])
def test_few_bits_are_nearly_the_same_model(kind: str, form: str, tmp_path: Path) -> None:
    write, least = QUANTIZED[form]
    state = state_of(kind)
    reference = output(load_transformer(prefixed("")(state, tmp_path)))
    path = write(state, tmp_path)
    model = load_transformer(path, dtype="float32")
    assert model.variant is VARIANTS[kind]
    measured = snr_db(output(model), reference)
    print(f"forms | {kind} | {form} | {measured:.1f} dB")
    assert least <= measured
    small = {key for key, tensor in model.state_dict().items() if isinstance(tensor, PackedWeight)}
    if form not in ("F16.gguf", "BF16.gguf"):
        assert small >= set(filter(is_quantizable, state))
        held = sum(tensor.nbytes for key, tensor in model.state_dict().items() if is_quantizable(key))
        assert held < 0.3 * sum(tensor.nbytes for key, tensor in state.items() if is_quantizable(key)) * 1.1
    assert not [key for key in small if key.endswith("bias")]


def test_quantized_weights_decode_into_the_dtype_the_model_computes_in(tmp_path: Path) -> None:
    state = {key: tensor.bfloat16() for key, tensor in state_of("CogVideoX-5B").items()}
    path = QUANTIZED["int8"][0](state, tmp_path)
    for asked, dtype in ((None, torch.bfloat16), ("float16", torch.float16), ("float32", torch.float32)):
        model = load_transformer(path, dtype=asked)
        assert {tensor.dtype for tensor in model.state_dict().values()} == {dtype}


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
