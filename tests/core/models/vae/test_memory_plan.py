"""What is done with a clip depends on what is free."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor

from cogvideox_core import Tiling, VAEConfig, VideoSize, decode_memory
from cogvideox_core.models.vae.memory_plan import Plan, make_plan

OFFICIAL = VAEConfig()
CPU, META = torch.device("cpu"), torch.device("meta")  # the latter takes bands as a GPU does


class TestPlan:
    """What is done depends on what is free."""

    size = VideoSize(480, 720, 49)
    gpu = torch.empty(0, dtype=torch.bfloat16, device="meta")  # not the CPU
    all = decode_memory(OFFICIAL, size, torch.bfloat16, META)
    less = decode_memory(OFFICIAL, size, torch.bfloat16, META, keeps_cache=False)

    def plan(self, choice: str, free: int | None, weight: Tensor | None = None, size: VideoSize | None = None) -> Plan:
        weight = self.gpu if weight is None else weight
        return make_plan("decode", choice, OFFICIAL, size or self.size, weight, free=free)  # type: ignore[arg-type]

    def test_exact_as_long_as_it_fits(self) -> None:
        for choice in ("auto", "exact"):
            assert self.plan(choice, self.all) == self.plan(choice, None) == Plan()
            assert self.plan(choice, self.all - 1) == self.plan(choice, self.less) == Plan(cache_device=CPU)
        assert self.plan("exact", self.less - 1) == Plan(cache_device=CPU)

    def test_blended_where_it_does_not_and_a_sentence_says_so(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING, logger="cogvideox"):
            assert self.plan("auto", self.less - 1) == Plan(Tiling())
        (record,) = caplog.records
        assert "720x480, 49 frames" in record.getMessage()
        assert "blended" in record.getMessage()

    def test_a_processor_has_nowhere_else_to_put_what_is_carried(self) -> None:
        weight = torch.empty(0, dtype=torch.bfloat16)
        needed = decode_memory(OFFICIAL, self.size, torch.bfloat16, CPU)
        assert self.plan("auto", needed, weight) == Plan()
        assert self.plan("auto", needed - 1, weight) == Plan(Tiling())
        assert self.plan("exact", 1, weight) == Plan()

    def test_tiles_help_only_a_picture_that_is_larger(self) -> None:
        assert self.plan("auto", 1, size=VideoSize(240, 360, 49)) == Plan(cache_device=CPU)

    def test_blended_is_blended(self) -> None:
        assert self.plan("blended", None) == Plan(Tiling())
