"""The JSON files of a checkpoint (config.json and others), read and checked."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from .errors import CheckpointError, shown


def read_json(path: Path) -> dict[str, Any]:
    """The object a JSON file holds. Raises: CheckpointError if it holds none."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); download it again") from error
    return parse_json(text, path)


def parse_json(text: str, source: str | Path) -> dict[str, Any]:
    """The object in `text`; `source` names it in messages."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{source} is no valid JSON ({error}); download it again or repair it") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{source} holds a JSON {type(content).__name__}, not an object; download it again")
    return content


def declared_fields(config_class: type, declared: Mapping[str, Any] | None, source: str | Path) -> dict[str, Any]:
    """The declared values that a config class has a field for, in that field's type; nulls only where it takes None.

    Raises: CheckpointError if a value is of the wrong type, or a number is not positive and finite.
    """
    values = {}
    for field in fields(config_class):
        value = (declared or {}).get(field.name)
        if value is None:
            if declared and field.name in declared and "None" in str(field.type):
                values[field.name] = None
            continue
        wanted, convert = _CONVERT[str(field.type).removesuffix(" | None")]
        converted = convert(value)
        if converted is None:
            raise CheckpointError(
                f"{source} declares {field.name} {shown(repr(value))}, which is not {wanted}; repair its JSON"
            )
        values[field.name] = converted
    return values


def check_fixed(declared: Mapping[str, Any] | None, fixed: Mapping[str, Any], source: str | Path) -> None:
    """Refuse values under which the model would compute something else than the code here does.

    Raises: CheckpointError if a declared value is not the one in `fixed`.
    """
    for name, wanted in fixed.items():
        value = (declared or {}).get(name, wanted)
        if value != wanted and value is not None:
            raise CheckpointError(
                f"{source} declares {name} {shown(repr(value))}; CogVideoX models have {wanted!r} and nothing else is "
                "supported, use the JSON that came with the weights"
            )


def _whole(value: Any) -> int | None:
    number = _number(value)
    return int(number) if number is not None and number == int(number) else None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) and number > 0 else None


def _flag(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _wholes(value: Any) -> tuple[int, ...] | None:
    numbers = [_whole(item) for item in value] if isinstance(value, list | tuple) else []
    whole = tuple(number for number in numbers if number is not None)
    return whole if whole and len(whole) == len(numbers) else None


# By the annotation of the dataclass field.
_CONVERT: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "int": ("a positive whole number", _whole),
    "float": ("a positive number", _number),
    "bool": ("true or false", _flag),
    "tuple[int, ...]": ("a list of positive whole numbers", _wholes),
}
