"""Codecs: ggml's own reader and writer are the oracles for blocks; what is encoded is nearly what it was."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch

from cogvideox_core.weights.codecs import CODECS
from cogvideox_core.weights.packed_weight import quantize, writable_codecs
from tests.support.parity import snr_db

BLOCKS = [name for name, codec in CODECS.items() if codec.block]
# Output SNR that the number of bits allows for normally distributed weights; measured 1 to 3 dB above.
LEAST_DB = {"Q4_0": 19, "Q8_0": 44, "int8": 40, "fp8": 30}
SCALES = {"Q4_K": slice(0, 4), "Q6_K": slice(208, 210)}  # where a block's half-precision scales lie; else at 0:2


def random_blocks(name: str, rows: int, blocks: int) -> np.ndarray:
    """Rows of random blocks with finite scales."""
    codec, draw = CODECS[name], np.random.default_rng(0)
    raw = draw.integers(0, 256, (rows * blocks, codec.block_bytes), dtype=np.uint8)
    place = SCALES.get(name, slice(0, 2))
    scales = draw.uniform(-1, 1, (len(raw), (place.stop - place.start) // 2)).astype(np.float16)
    raw[:, place] = scales.view(np.uint8)
    return raw.reshape(rows, -1)


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_are_decoded_as_ggml_decodes_them(name: str) -> None:
    raw = random_blocks(name, 5, 3)
    wanted = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[name])
    decoded = CODECS[name].decode({"data": torch.from_numpy(raw)})
    assert torch.equal(decoded, torch.from_numpy(wanted))


@pytest.mark.parametrize("name", [name for name in BLOCKS if CODECS[name].encode])
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
