"""The error of weight files, and what its sentences need: lists of keys, and text from files made printable."""

from __future__ import annotations

from collections.abc import Iterable

_LONGEST = 120


class CheckpointError(ValueError):
    """Weights that cannot be used. The message is one sentence: which file, what is wrong, what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(shown(message, None))


def listed(items: Iterable[str], limit: int = 5) -> str:
    """The first `limit` items, and how many more there are."""
    items = list(items)
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(shown(item) for item in items[:limit]) + more


def shown(text: str, longest: int | None = _LONGEST) -> str:
    """Text from a file as part of a message: one line, printable, cut after `longest` characters."""
    line = "".join(character if character.isprintable() else " " for character in text)
    return line if longest is None or len(line) <= longest else line[:longest] + "..."
