"""The one error of weight files, and how its sentences list keys."""

from __future__ import annotations

from collections.abc import Iterable

_LONGEST = 120


class CheckpointError(ValueError):
    """Weights cannot be used. The message is one sentence: which file, what is wrong, what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(shown(message, None))


def listed(items: Iterable[str], limit: int = 5) -> str:
    """The first few items, and how many more there are."""
    items = list(items)
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(shown(item) for item in items[:limit]) + more


def shown(text: str, longest: int | None = _LONGEST) -> str:
    """Text from a file made fit for a message: one line, nothing unprintable, not endless."""
    line = "".join(character if character.isprintable() else " " for character in text)
    return line if longest is None or len(line) <= longest else line[:longest] + "..."
