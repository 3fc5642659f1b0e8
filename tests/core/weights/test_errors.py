"""Sentences of errors: lists are cut, and text from files is made printable."""

from __future__ import annotations

from cogvideox_core.weights.errors import CheckpointError, listed, shown


def test_a_long_list_says_how_many_more_there_are() -> None:
    assert listed(["a", "b"]) == "a, b"
    assert listed("abcdefgh") == "a, b, c, d, e and 3 more"
    assert listed("abcd", 1) == "a and 3 more"
    assert listed([]) == ""


def test_text_from_a_file_is_one_printable_line() -> None:
    assert shown("\x1b[31m\nx\u200b") == " [31m x "
    assert shown("k" * 121) == "k" * 120 + "..." and shown("k" * 120) == "k" * 120
    assert shown("k" * 500, None) == "k" * 500
    assert listed(["a\nb"]) == "a b"


def test_an_error_is_one_line_and_a_value_error() -> None:
    error = CheckpointError("a\x07b\nc")
    assert str(error) == "a b c" and isinstance(error, ValueError)
