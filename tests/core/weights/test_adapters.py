"""Adapters of every kind and form compute what the library computes that wrote them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel
from torch import Tensor

from cogvideox_core import load_lora, load_transformer
from cogvideox_core.models.transformer.model import CogVideoXTransformer3D
from cogvideox_core.weights.adapters import (
    Delta,
    DoRADelta,
    LoHaDelta,
    LoKrDelta,
    LoRADelta,
    Replacement,
    Rescaled,
    Rotation,
    cayley,
    cayley_series,
    skew,
)
from tests.support.adapter_forms import FORMS, base, inputs, lycoris
from tests.support.parity import assert_parity, relative_difference


@pytest.fixture(scope="module")
def theirs() -> CogVideoXTransformer3DModel:
    return base()


@pytest.fixture(scope="module")
def ours(theirs: CogVideoXTransformer3DModel, tmp_path_factory: pytest.TempPathFactory) -> CogVideoXTransformer3D:
    folder = tmp_path_factory.mktemp("base")
    theirs.save_pretrained(folder)
    return load_transformer(folder, dtype="float32")


@pytest.mark.parametrize("form", FORMS)
def test_a_file_does_what_its_library_does(form: str, theirs: Any, ours: Any, tmp_path: Path) -> None:
    adapted = FORMS[form].make(copy.deepcopy(theirs), tmp_path / "adapter")
    plain, wanted = ours(*inputs()), adapted()
    assert relative_difference(wanted, plain) > 0.01, "the adapter of the test changes nothing"
    lora = load_lora(ours, adapted.path)
    assert_parity(ours(*inputs()), wanted, 2e-5, form)
    assert lora.unmatched == [] and lora.report().endswith(FORMS[form].report), lora.report()
    lora.strength = 0.0
    assert_parity(ours(*inputs()), plain, 1e-6, f"{form}, at strength 0")
    lora.strength = 1.0
    lora.remove()
    assert torch.equal(ours(*inputs()), plain)


# Kinds whose change LyCORIS multiplies by its multiplier, as we by the strength.
@pytest.mark.parametrize("algo", ["lora", "loha", "lokr", "glora", "full", "diag-oft"])
def test_strengths_are_multipliers_of_lycoris(algo: str, theirs: Any, ours: Any, tmp_path: Path) -> None:
    adapted = lycoris(algo, multiplier=-0.4, spread=0.05)(copy.deepcopy(theirs), tmp_path / "adapter")
    lora = load_lora(ours, adapted.path, -0.4)
    assert_parity(ours(*inputs()), adapted(), 2e-5, f"{algo} at strength -0.4")
    lora.remove()


# --- By hand ----------------------------------------------------------------------------------------------------------


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def rotation(*shape: int) -> Tensor:
    return cayley(skew(0.2 * drawn(*shape)))


WEIGHT = drawn(16, 8)
LORA = LoRADelta(drawn(3, 8), drawn(16, 3), scale=0.5)
DELTAS: dict[str, Delta] = {
    "LoRA": LORA,
    "LoHa": LoHaDelta(drawn(16, 3), drawn(3, 8), drawn(16, 2), drawn(2, 8)),
    "LoKr": LoKrDelta(drawn(4, 2), drawn(4, 4)),
    "DoRA": DoRADelta(LORA, drawn(16).abs()),
    "rows": Rotation(rotation(1, 4, 4, 4)),
    "columns": Rotation(rotation(1, 2, 4, 4), axis=1, rescale=drawn(16)),
    "stages": Rotation(rotation(2, 4, 4, 4), is_butterfly=True),
    "factors": Rescaled(drawn(8), axis=1),
    "another": Replacement(drawn(16, 8) + 1),
}


@pytest.mark.parametrize("kind", DELTAS)
def test_a_strength_goes_along_a_straight_line(kind: str) -> None:
    delta = DELTAS[kind]
    whole = delta.changed(WEIGHT)
    assert whole.shape == WEIGHT.shape and relative_difference(whole, WEIGHT) > 0.05
    for strength in (0.0, 0.3, 1.0, -2.0):
        wanted = WEIGHT + strength * (whole - WEIGHT)
        assert_parity(delta.at_strength(WEIGHT, strength), wanted, 1e-6, f"{kind} at {strength}")


@pytest.mark.parametrize("kind", DELTAS)
def test_a_weight_of_another_shape_is_refused(kind: str) -> None:
    with pytest.raises(RuntimeError):
        DELTAS[kind].changed(drawn(12, 9))


def test_a_weight_in_16_bits_is_changed_in_32() -> None:
    assert LORA.at_strength(WEIGHT.bfloat16(), 0.5).dtype == torch.float32
    assert LORA.at_strength(WEIGHT.double(), 0.5).dtype == torch.float64


def test_magnitudes_are_the_norms_of_the_result() -> None:
    rows, columns = drawn(16).abs(), drawn(8).abs()
    assert_parity(DoRADelta(LORA, rows).changed(WEIGHT).norm(dim=1), rows, 1e-6, "norms of rows")
    assert_parity(DoRADelta(LORA, columns, axis=1).changed(WEIGHT).norm(dim=0), columns, 1e-6, "norms of columns")


def test_a_row_of_zeros_has_no_direction_and_stays() -> None:
    nothing = LoRADelta(torch.zeros(1, 4), torch.zeros(2, 1))
    assert torch.equal(DoRADelta(nothing, torch.ones(2)).changed(torch.zeros(2, 4)), torch.zeros(2, 4))


@pytest.mark.parametrize("kind", ["rows", "stages"])
def test_rotations_of_rows_keep_the_norms_of_columns(kind: str) -> None:
    assert_parity(DELTAS[kind].changed(WEIGHT).norm(dim=0), WEIGHT.norm(dim=0), 1e-6, kind)


def test_a_long_series_is_the_solution() -> None:
    skewed = skew(0.1 * drawn(3, 4, 4))
    assert_parity(cayley_series(skewed, 40), cayley(skewed), 1e-6, "forty terms")
    assert torch.equal(cayley_series(skewed, 1), torch.eye(4).expand(3, 4, 4))
