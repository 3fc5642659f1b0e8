"""Rows of kinds: what parts make, where no library of today writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cogvideox_core.weights.adapter_kinds import BIASES, KINDS, LayerAdapter, NotRead, Parts, build, kind_of
from cogvideox_core.weights.adapter_names import ENDINGS
from cogvideox_core.weights.adapter_scales import Scale
from cogvideox_core.weights.adapters import LoRADelta
from tests.support.parity import assert_parity

OLDER = json.loads((Path(__file__).parents[2] / "golden" / "adapters" / "older_peft.json").read_text())


def made(tensors: dict[str, Tensor], alpha: float | None = None, **settings: Any) -> LayerAdapter:
    return build(Parts(tensors, alpha, settings, lambda rank: Scale(0.5, f"rank {rank}")))


@pytest.mark.parametrize("row", OLDER)
def test_rotations_of_an_older_peft(row: str) -> None:
    """Made by tests/golden/adapters/make_older_peft.py with these versions of PEFT."""
    golden = OLDER[row]
    found = made({key: torch.tensor(value) for key, value in golden["tensors"].items()})
    before, after = torch.tensor(golden["before"]), torch.tensor(golden["after"])
    assert found.weight is not None and found.kind == "OFT" and found.scale is None
    assert_parity(found.weight.changed(before), after, 1e-6, f"OFT of PEFT {row}")


def test_older_glora_has_its_factors_the_other_way_round() -> None:
    torch.manual_seed(0)
    weight, a1, a2, b1, b2 = (torch.randn(shape) for shape in ((12, 8), (8, 2), (2, 8), (12, 2), (2, 8)))
    today = made({"a1": a1, "a2": a2, "b1": b1, "b2": b2}).weight
    older = made({"a1": a2, "a2": a1, "b1": b2, "b2": b1}).weight
    assert today is not None and older is not None
    assert torch.equal(older.changed(weight), today.changed(weight))
    assert_parity(today.changed(weight), weight + 0.5 * (weight @ a1 @ a2 + b1 @ b2), 1e-6, "GLoRA")


@pytest.mark.parametrize(("side", "on_input"), [(12, 0), (8, 1)])
def test_ia3_of_lycoris_multiplies_rows_or_columns(side: int, on_input: int) -> None:
    weight, factors = torch.randn(12, 8), torch.randn(side)
    found = made({"weight": factors, "on_input": torch.tensor(on_input)})
    wanted = weight * (1 + factors) if on_input else weight * (1 + factors[:, None])
    assert found.weight is not None and found.bias is None
    assert_parity(found.weight.changed(weight), wanted, 1e-6, "IA3 of LyCORIS")


def test_whole_weights_replace_and_differences_add() -> None:
    weight, other = torch.randn(12, 8), torch.randn(12, 8)
    for part, wanted in (("weight", other), ("set_weight", other), ("diff", weight + other)):
        found = made({part: other}).weight
        assert found is not None and torch.equal(found.changed(weight), wanted)
    bias = made({"bias": other[:, 0]})
    assert bias.kind == "biases" and bias.weight is None and bias.bias is not None
    assert torch.equal(bias.bias.changed(weight[:, 0]), other[:, 0])


def test_a_bias_is_scaled_as_its_lora_is() -> None:
    found = made({"down": torch.randn(2, 8), "up": torch.randn(12, 2), "up_bias": torch.ones(12)})
    assert isinstance(found.weight, LoRADelta) and found.weight.scale == 0.5 and found.bias is not None
    assert torch.equal(found.bias.changed(torch.zeros(12)), torch.full((12,), 0.5))


@pytest.mark.parametrize("names", [{"down", "lokr_w1"}, {"oft_R", "rescale"}, {"weight", "set_weight"}, {"lora_E"}])
def test_parts_that_no_kind_has_together_make_nothing(names: set[str]) -> None:
    assert kind_of(names) is None
    with pytest.raises(NotRead, match=" with ".join(sorted(names))):
        made({name: torch.ones(2, 2) for name in names})


def test_every_part_of_a_kind_has_an_ending() -> None:
    known = {part for kind in KINDS for part in kind.parts} | BIASES.keys() | {"alpha", "down_bias", "bm"}
    assert known == ENDINGS.keys()
