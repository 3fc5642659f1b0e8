"""Scales: what counts of what a file, its configuration and the user say."""

from __future__ import annotations

from typing import Any

import pytest

from cogvideox_core.weights.adapter_scales import PeftConfig, Scale, described, scale_of

TOLD = PeftConfig(where="adapter_config.json", rank=8, alpha=2, alpha_pattern={"to_v": 16})
ASKED: dict[str, Any] = {"alpha": None, "divide_by_rank": False, "is_sat": False}


@pytest.mark.parametrize(
    ("config", "rank", "options", "value", "source"),
    [
        (TOLD, 8, {"alpha": 4.0}, 0.5, "alpha 4, rank 8"),
        (TOLD, None, {"alpha": 4.0}, 1.0, "whole matrices"),
        (TOLD, 8, {}, 0.25, "alpha 2, rank 8, by adapter_config.json"),
        (TOLD, None, {}, 0.25, "alpha 2, rank 8, by adapter_config.json"),
        (TOLD, 4, {}, 1.0, "not known: rank 4, and adapter_config.json is about rank 8"),
        (PeftConfig(), 4, {"divide_by_rank": True}, 0.25, "1 / rank 4, as asked for"),
        (PeftConfig(), 4, {"is_sat": True}, 0.25, "1 / rank 4, as SAT trains"),
        (PeftConfig(), 4, {}, 1.0, "not known: rank 4, no alpha in the file, no adapter_config.json beside it"),
        (PeftConfig(), None, {}, 1.0, "not known: no alpha in the file"),
    ],
)
def test_the_first_that_says_it_counts(
    config: PeftConfig, rank: int | None, options: dict[str, Any], value: float, source: str
) -> None:
    assert scale_of("blocks.0.to_q", rank, config, **{**ASKED, **options}) == Scale(value, source)


def test_patterns_and_stabilized_ranks_are_those_of_peft() -> None:
    assert scale_of("blocks.0.to_v", 8, TOLD, **ASKED).value == 2.0
    stable = PeftConfig(where="header", rank=4, alpha=2, use_rslora=True)
    assert scale_of("to_q", 4, stable, **ASKED) == Scale(1.0, "alpha 2, rank 4, rank-stabilized, by header")


def test_scales_are_told_in_a_few_words() -> None:
    one, other = Scale(0.5, "alpha 2, rank 4"), Scale(1.0, "not known: rank 8")
    assert described([]) == "without a scale"
    assert described([one, one]) == "at scale 0.5 (alpha 2, rank 4)"
    assert described([one, other, one]) == "at scales 0.5 (alpha 2, rank 4) for 2, 1 (not known: rank 8) for 1 layers"
    many = [Scale(float(value), "x") for value in range(5)]
    assert described(many).endswith("layers, and 2 others")
