"""The fastest way is measured, kept by machine, and read again; whatever is wrong with the file costs time only."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cogvideox_core.kernels import choices, cpu_attention, layers
from cogvideox_core.models.vae import winograd
from tests.support.parity import assert_parity


@pytest.fixture(autouse=True)
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measuring is on, nothing is known, and what is kept goes to a folder of this test's."""
    monkeypatch.setenv(choices.CACHE, str(tmp_path / "cache"))
    monkeypatch.delenv(choices.MEASURE, raising=False)
    monkeypatch.setattr(choices, "_chosen", {})


def ways(**seconds: float) -> Callable[[], choices.Ways]:
    """Ways that take so long."""
    return lambda: {name: (lambda duration=duration: time.sleep(duration)) for name, duration in seconds.items()}


def never() -> choices.Ways:
    raise AssertionError("measured again")


def forget() -> None:
    choices._chosen.clear()


def test_the_fastest_way_is_taken_and_kept() -> None:
    assert choices.fastest("digging", ways(spade=0.02, digger=0.002), "spade") == "digger"
    assert choices.fastest("digging", never, "spade") == "digger"
    forget()
    assert choices.fastest("digging", never, "spade") == "digger"
    kept = json.loads(choices.file_of_choices().read_text())
    assert kept == {choices.machine(): {"digging": "digger"}}
    assert [path.name for path in choices.file_of_choices().parent.iterdir()] == ["choices.json"]


def test_the_default_stays_where_nothing_is_clearly_faster() -> None:
    assert choices.fastest("digging", ways(spade=0.02, other=0.0199), "spade") == "spade"


def test_another_machine_measures_again(monkeypatch: pytest.MonkeyPatch) -> None:
    choices.fastest("digging", ways(spade=0.02, digger=0.002), "spade")
    forget()
    monkeypatch.setattr(choices, "machine", lambda: "another")
    assert choices.fastest("digging", ways(spade=0.002, digger=0.02), "digger") == "spade"
    assert len(json.loads(choices.file_of_choices().read_text())) == 2


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '{"a": 3}', "\x00\xff"])
def test_a_damaged_file_is_written_anew(content: str) -> None:
    file = choices.file_of_choices()
    file.parent.mkdir(parents=True)
    file.write_text(content, encoding="latin-1")
    assert choices.fastest("digging", ways(spade=0.02, digger=0.002), "spade") == "digger"
    assert json.loads(file.read_text())[choices.machine()] == {"digging": "digger"}


def test_a_folder_that_cannot_be_written_to_costs_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(choices.CACHE, str(tmp_path / "file"))
    assert choices.fastest("digging", ways(spade=0.02, digger=0.002), "spade") == "digger"


def test_switched_off_the_default_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(choices.MEASURE, "off")
    assert choices.fastest("digging", never, "spade") == "spade"
    assert not choices.file_of_choices().exists()


@pytest.mark.parametrize("chosen", ["onednn", "pytorch"])
def test_layers_multiply_as_was_chosen(chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    real = layers.onednn_linear
    monkeypatch.setattr(layers, "onednn_linear", lambda *given, **more: asked.append(1) or real(*given, **more))
    monkeypatch.setattr(layers, "fastest", lambda *given: chosen)
    layer, x = layers.Linear(32, 48).requires_grad_(False), torch.randn(8, 32)
    assert_parity(layer(x), torch.nn.functional.linear(x, layer.weight, layer.bias), 1e-6, f"a product by {chosen}")
    wanted = torch.nn.functional.gelu(layer(x), approximate="tanh")
    assert_parity(layer.gelu(x), wanted, 1e-6, f"its GELU by {chosen}")
    assert bool(asked) == (chosen == "onednn")


def test_every_choice_of_the_core_can_be_measured() -> None:
    """Each pair of ways gives the same numbers but for rounding, in little time."""
    pairs = [
        cpu_attention._ways(torch.float32),
        cpu_attention._ways(torch.bfloat16),
        layers._ways(256, False),
        layers._ways(256, True),
        winograd._ways(64, 96),
    ]
    for one in pairs:
        first, second = (compute() for compute in one.values())
        assert isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor)
        assert_parity(first.float(), second.float(), 2e-2 if first.dtype == torch.bfloat16 else 1e-5, str(list(one)))
