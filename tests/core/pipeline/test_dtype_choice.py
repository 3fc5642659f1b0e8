"""A model computes in its own dtype, but never in one that its device lacks or only emulates."""

from __future__ import annotations

import logging
import re
from typing import Any

import pytest
import torch

from cogvideox_core.pipeline.dtype_choice import check_dtype, own_dtype, text_encoder_dtype
from cogvideox_core.weights.t5 import read_text_encoder

HALF, BRAIN, SINGLE = torch.float16, torch.bfloat16, torch.float32
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
LARGE = 5_600_000_000


@pytest.fixture
def turing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (7, 5))


@pytest.mark.usefixtures("turing")
@pytest.mark.parametrize(
    ("stored", "trained", "taken"),
    [(BRAIN, BRAIN, SINGLE), (BRAIN, HALF, HALF), (HALF, HALF, HALF), (HALF, BRAIN, HALF), (SINGLE, BRAIN, SINGLE)],
)
def test_cards_below_8_0_compute_in_float32_or_float16(
    stored: torch.dtype, trained: torch.dtype, taken: torch.dtype, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "cogvideox"):
        assert own_dtype(stored, trained, CUDA, LARGE) == taken
    told = {
        SINGLE: "cuda does not compute in bfloat16 (its compute capability is 7.5, below 8.0), so float32 is taken, "
        "22.4 GB of weights; where they do not fit, low memory streams them",
        HALF: "cuda does not compute in bfloat16 (its compute capability is 7.5, below 8.0), so float16 is taken, "
        "in which the model was trained",
    }
    assert caplog.messages == ([told[taken]] if stored == BRAIN else [])


@pytest.mark.parametrize("stored", [HALF, BRAIN, SINGLE])
def test_cards_from_8_0_on_compute_in_what_the_weights_are_in(
    stored: torch.dtype, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (8, 0))
    assert own_dtype(stored, BRAIN, CUDA, LARGE) == stored
    check_dtype(stored, BRAIN, CUDA)
    assert not caplog.messages


def test_a_processor_computes_in_float16_in_no_case() -> None:
    assert own_dtype(HALF, HALF, CPU, 1000) == SINGLE
    assert own_dtype(HALF, HALF, CPU, LARGE) == BRAIN
    assert own_dtype(BRAIN, BRAIN, CPU, LARGE) == BRAIN


@pytest.mark.usefixtures("turing")
@pytest.mark.parametrize(("trained", "fitting"), [(BRAIN, "float32"), (HALF, "float16 or float32")])
def test_emulated_bfloat16_is_refused_where_it_is_asked_for(trained: torch.dtype, fitting: str) -> None:
    told = "dtype=bfloat16 on cuda, which does not compute in it (its compute capability is 7.5, below 8.0); take "
    with pytest.raises(ValueError, match=f"^{re.escape(told + fitting)}$"):
        check_dtype(BRAIN, trained, CUDA)
    for dtype in (HALF, SINGLE):
        check_dtype(dtype, trained, CUDA)
    check_dtype(BRAIN, trained, CPU)


@pytest.mark.parametrize(
    ("stored", "asked", "device", "taken"),
    [
        (BRAIN, None, CPU, BRAIN),
        (HALF, None, CPU, SINGLE),
        (SINGLE, "float16", CPU, SINGLE),
        (SINGLE, "bfloat16", CPU, BRAIN),
        (BRAIN, None, CUDA, SINGLE),
        (HALF, None, CUDA, HALF),
        (SINGLE, "bfloat16", CUDA, SINGLE),
    ],
)
@pytest.mark.usefixtures("turing")
def test_a_text_encoder_of_its_own_device_computes_in_what_that_has(
    checkpoint: Any, stored: torch.dtype, asked: str | None, device: torch.device, taken: torch.dtype
) -> None:
    """What the model beside it computes in does not count."""
    weights = read_text_encoder(checkpoint("CogVideoX-5B", dtype=stored))
    assert text_encoder_dtype(weights, asked, device) == taken
