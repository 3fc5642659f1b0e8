"""What is done with a clip depends on what is free."""

from __future__ import annotations

import logging

import pytest
import torch

from cogvideox_core import Tiling, VAEConfig, VideoSize, decode_memory, encode_memory
from cogvideox_core.models.vae.memory_plan import Budget, Plan, make_plan
from cogvideox_core.models.vae.tiling import TilingChoice

OFFICIAL = VAEConfig()
CPU, META = torch.device("cpu"), torch.device("meta")  # the latter takes bands as a GPU does


SIZE = VideoSize(480, 720, 49)
ALL = decode_memory(OFFICIAL, SIZE, torch.bfloat16, META)
LESS = decode_memory(OFFICIAL, SIZE, torch.bfloat16, META, keeps_cache=False)


def plan(choice: TilingChoice, free: int | None, device: torch.device = META, size: VideoSize = SIZE) -> Plan:
    return make_plan("decode", choice, OFFICIAL, size, Budget(torch.bfloat16, device, free))


@pytest.mark.parametrize("choice", ["auto", "exact"])
def test_exact_as_long_as_it_fits(choice: TilingChoice) -> None:
    assert plan(choice, ALL) == plan(choice, None) == Plan()
    assert plan(choice, ALL - 1) == plan(choice, LESS) == Plan(cache_device=CPU)
    assert plan("exact", LESS - 1) == Plan(cache_device=CPU)


def test_blended_where_it_does_not_and_a_sentence_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="cogvideox"):
        assert plan("auto", LESS - 1) == Plan(Tiling())
    (record,) = caplog.records
    assert "720x480, 49 frames" in record.getMessage()
    assert "blended" in record.getMessage()


def test_a_processor_has_nowhere_else_for_the_cache() -> None:
    needed = decode_memory(OFFICIAL, SIZE, torch.bfloat16, CPU)
    assert plan("auto", needed, CPU) == Plan()
    assert plan("auto", needed - 1, CPU) == Plan(Tiling())
    assert plan("exact", 1, CPU) == Plan()


def test_tiles_help_only_a_picture_that_is_larger() -> None:
    assert plan("auto", 1, size=VideoSize(240, 360, 49)) == Plan(cache_device=CPU)


def test_blended_is_blended_in_the_tiles_that_are_asked_for() -> None:
    assert plan("blended", None) == Plan(Tiling())
    tiles = Tiling(64, 64)
    budget = Budget(torch.bfloat16, META, LESS - 1)
    assert make_plan("decode", "auto", OFFICIAL, SIZE, budget, tiles) == Plan(tiles)


def test_an_encode_has_a_memory_of_its_own() -> None:
    needed = encode_memory(OFFICIAL, SIZE, torch.bfloat16, META)
    assert needed != ALL
    assert make_plan("encode", "exact", OFFICIAL, SIZE, Budget(torch.bfloat16, META, needed)) == Plan()
    assert make_plan("encode", "exact", OFFICIAL, SIZE, Budget(torch.bfloat16, META, needed - 1)) != Plan()
