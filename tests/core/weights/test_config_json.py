"""The JSON files of a checkpoint: what they declare is read by the type of its field, or refused in one sentence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from cogvideox_core.weights.config_json import check_fixed, declared_fields, parse_json, read_json
from cogvideox_core.weights.errors import CheckpointError


@dataclass(frozen=True)
class Config:
    layers: int = 1
    scale: float = 0.5
    flag: bool = False
    widths: tuple[int, ...] = ()
    optional: int | None = 3


def test_an_object_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"layers": 2, "name": "ü"}', encoding="utf-8")
    assert read_json(tmp_path / "config.json") == {"layers": 2, "name": "ü"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is no valid JSON"),
        (b"[1, 2]", "holds a JSON list, not an object"),
        (b"null", "holds a JSON NoneType, not an object"),
        (b"\xff\xfe", "cannot be read"),
        (b"[" * 100_000, "is no valid JSON"),
    ],
)
def test_what_is_no_object_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=f"config.json {message}.*download it again"):
        read_json(tmp_path / "config.json")


def test_a_folder_is_no_json(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"{tmp_path.name} cannot be read"):
        read_json(tmp_path)


def test_text_is_parsed_under_the_name_of_its_source() -> None:
    assert parse_json('{"a": null}', "the header") == {"a": None}
    with pytest.raises(CheckpointError, match="the header is no valid JSON"):
        parse_json("", "the header")


def test_values_come_in_the_types_of_their_fields() -> None:
    declared = {"layers": 4.0, "scale": 2, "flag": True, "widths": [8, 16], "optional": None, "unknown": "x"}
    values = declared_fields(Config, declared, "x")
    assert values == {"layers": 4, "scale": 2.0, "flag": True, "widths": (8, 16), "optional": None}
    assert type(values["layers"]) is int and type(values["scale"]) is float
    assert declared_fields(Config, {"layers": None}, "x") == {}, "null counts only where the field takes None"
    assert declared_fields(Config, None, "x") == {}


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("layers", 2.5, "a positive whole number"),
        ("layers", True, "a positive whole number"),
        ("layers", 0, "a positive whole number"),
        ("scale", "1", "a positive number"),
        ("scale", float("nan"), "a positive number"),
        ("scale", 10**400, "a positive number"),
        ("flag", 1, "true or false"),
        ("widths", [], "a list of positive whole numbers"),
        ("widths", [8, "x"], "a list of positive whole numbers"),
        ("optional", -1, "a positive whole number"),
    ],
)
def test_a_value_of_another_type_is_refused(name: str, value: object, wanted: str) -> None:
    with pytest.raises(CheckpointError, match=f"^x declares {name} .*, which is not {wanted}; repair its JSON"):
        declared_fields(Config, {name: value}, "x")


def test_values_the_code_does_not_know_are_refused() -> None:
    fixed = {"act_fn": "silu", "shift_factor": None}
    check_fixed({"act_fn": "silu", "shift_factor": None, "other": 1}, fixed, "x")
    check_fixed({}, fixed, "x")
    check_fixed(None, fixed, "x")
    for declared in ({"act_fn": "gelu"}, {"shift_factor": 0.1}):
        (name,) = declared
        with pytest.raises(CheckpointError, match=f"^x declares {name} .*nothing else is supported"):
            check_fixed(declared, fixed, "x")
