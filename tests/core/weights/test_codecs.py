"""Codecs: ggml's and bitsandbytes' own writers are the oracles; what is encoded is nearly what it was."""

from __future__ import annotations

import gguf
import pytest
import torch

from cogvideox_core.weights.codecs import CODECS, FOUR_BITS, GGML
from cogvideox_core.weights.packed_weight import quantize, writable_codecs
from tests.support.parity import snr_db

# Output SNR that the number of bits allows for normally distributed weights; measured 1 to 3 dB above.
LEAST_DB = {"Q4_0": 19, "Q8_0": 44, "int8": 40, "fp8": 30}


@pytest.mark.parametrize("name", [name for name, codec in GGML.items() if codec.encode])
def test_blocks_are_encoded_as_ggml_encodes_them(name: str) -> None:
    x = torch.randn(7, 96, generator=torch.Generator().manual_seed(1))
    x[2, 32:64] = 0
    encode = CODECS[name].encode
    assert encode is not None
    wanted = gguf.quants.quantize(x.numpy(), gguf.GGMLQuantizationType[name])
    assert torch.equal(encode(x)["data"], torch.from_numpy(wanted))


@pytest.mark.parametrize("name", writable_codecs())
def test_what_is_encoded_is_nearly_what_it_was(name: str) -> None:
    x = torch.randn(16, 256, generator=torch.Generator().manual_seed(2))
    small = quantize(x, name)
    assert snr_db(small.dequantize(), x) > LEAST_DB[name]
    assert quantize(torch.zeros(4, 64), name).dequantize().abs().max() == 0


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("name", FOUR_BITS)
def test_4_bits_are_decoded_as_bitsandbytes_decodes_them(name: str, nested: bool) -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    x = torch.randn(24, 192, generator=torch.Generator().manual_seed(3))
    try:
        data, note = functional.quantize_4bit(x, quant_type=name, compress_statistics=nested)
    except RuntimeError as error:
        pytest.skip(f"this bitsandbytes has no {name} on the CPU: {error}")
    wanted = functional.dequantize_4bit(data, note)
    assert torch.equal(torch.tensor(FOUR_BITS[name]), note.code.cpu())
    if nested:
        note.absmax = functional.dequantize_blockwise(note.absmax, note.state2) + note.offset
    stored = {"data": data.reshape(24, 96), "scale": note.absmax.reshape(24, 3)}
    assert torch.equal(CODECS[name].decode(stored), wanted)


@pytest.mark.parametrize("name", ["int8 in groups", "fp8 in groups"])
def test_a_group_of_columns_has_its_own_scale(name: str) -> None:
    data = torch.arange(-6, 6).reshape(2, 6).to(torch.int8 if name.startswith("int8") else torch.float8_e4m3fn)
    scale = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    wanted = data.float() * scale.repeat_interleave(2, dim=1)
    assert torch.equal(CODECS[name].decode({"data": data, "scale": scale}), wanted)


@pytest.mark.parametrize("name", [name for name in CODECS if name not in (*GGML, "fp8")])
def test_a_scale_that_was_lost_is_no_scale_of_one(name: str) -> None:
    data = torch.ones(2, 64, dtype=torch.uint8 if name in FOUR_BITS else torch.int8)
    with pytest.raises(KeyError, match="scale"):
        CODECS[name].decode({"data": data})
