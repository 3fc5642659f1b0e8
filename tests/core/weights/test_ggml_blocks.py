"""Blocks of GGML: the package gguf decodes every type to the same numbers, and a new type of its is missed here."""

from __future__ import annotations

import sys

import gguf
import numpy as np
import pytest
import torch

from cogvideox_core.weights import ggml_blocks
from cogvideox_core.weights.ggml_blocks import FORMATS
from tests.support.weight_forms import random_blocks

PLAIN = ("F32", "F16", "BF16")


def decoded_by_gguf() -> list[str]:
    """The names of all types of blocks that the installed gguf decodes."""
    names = []
    for kind, (_, nbytes) in gguf.GGML_QUANT_SIZES.items():
        try:
            gguf.quants.dequantize(np.zeros((1, nbytes), dtype=np.uint8), kind)
        except NotImplementedError:
            continue
        names.append(kind.name)
    return [name for name in names if name not in PLAIN]


def test_no_type_that_gguf_decodes_is_missing() -> None:
    assert set(decoded_by_gguf()) <= FORMATS.keys()


@pytest.mark.parametrize("name", decoded_by_gguf())
def test_blocks_are_decoded_as_gguf_decodes_them(name: str) -> None:
    kind, layout = gguf.GGMLQuantizationType[name], FORMATS[name]
    assert (layout.numbers, layout.nbytes) == gguf.GGML_QUANT_SIZES[kind]
    blocks = random_blocks(name, 300, 1, largest=1)
    wanted = gguf.quants.dequantize(blocks, kind)
    assert np.isfinite(wanted).all() and len(np.unique(wanted)) > 20
    assert torch.equal(layout.decode(torch.from_numpy(blocks)), torch.from_numpy(wanted))


def test_q8_k_is_one_scale_and_256_numbers() -> None:
    """ggml's, which gguf does not decode: a float32, the numbers, and sums of 16 numbers each."""
    numbers, sums = torch.randint(-127, 128, (3, 256)).to(torch.int8), torch.zeros(3, 32, dtype=torch.uint8)
    scales = torch.rand(3, 1)
    blocks = torch.cat([scales.view(torch.uint8), numbers.view(torch.uint8), sums], dim=1)
    assert blocks.shape[1] == FORMATS["Q8_K"].nbytes
    assert torch.equal(FORMATS["Q8_K"].decode(blocks), scales * numbers)


def test_a_grid_without_gguf_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    ggml_blocks._grid.cache_clear()
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ImportError, match="weights in IQ3_S need the package gguf; run: pip install gguf"):
        FORMATS["IQ3_S"].decode(torch.zeros(1, 110, dtype=torch.uint8))
