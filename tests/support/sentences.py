"""Which sentences the code can say, so that pages which quote them can be checked.

Every string in the code that is no docstring is a template: text with holes where values are put in. A sentence is one
that the code can say if it fits a template whole, and each hole holds a value (a number, a name, a file, a
message of the system) or itself such a sentence. A quotation may end where a clause of the sentence ends.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import NamedTuple

from tests import provision

FOLDERS = ("cogvideox_core", "nodes")
_FEWEST_LETTERS = 5  # of a template that counts
_DEEPEST = 3  # templates within templates
_WORD = re.compile(r"(?<![\w'.])[a-z]{3,}(?![\w.])")  # an English word: what no value has, unless it is one word alone
_CLAUSE_END = re.compile(r"(?=; | \()")
_SYSTEM_MESSAGES = frozenset(map(os.strerror, range(1, 140)))

Parts = tuple[str | None, ...]  # text, and None for a hole


class Template(NamedTuple):
    """A template as two patterns, whose holes take as little or as much as they can."""

    short: re.Pattern[str]
    long: re.Pattern[str]

    @classmethod
    def of(cls, parts: Parts) -> Template:
        return cls(_pattern(parts, "(.*?)"), _pattern(parts, "(.*)"))


def _pattern(parts: Parts, hole: str) -> re.Pattern[str]:
    return re.compile("".join(hole if part is None else re.escape(part) for part in parts), re.DOTALL)


def is_said(sentence: str) -> bool:
    """Whether the code can say `sentence`, as it is or after a word such as a file's name."""
    first, _, rest = sentence.partition(" ")
    return _fits(sentence, _DEEPEST) or (bool(rest) and _fits(rest, _DEEPEST))


def _fits(text: str, depth: int) -> bool:
    """Whether a template fits, with templates in its holes down to `depth`."""
    for pattern in (pattern for template in code_templates() for pattern in template):
        match = pattern.fullmatch(text)
        if match and all(is_value(hole) or (depth > 0 and _fits(hole, depth - 1)) for hole in match.groups()):
            return True
    return False


def is_value(text: str) -> bool:
    """Whether text is what code puts into a sentence: words with spaces between them are none, unless the system's."""
    parts = text.split(", ")
    return text in _SYSTEM_MESSAGES or not any(" " in part and _WORD.search(part) for part in parts)


@cache
def code_templates() -> tuple[Template, ...]:
    """The templates of the whole code, each once."""
    found: set[Parts] = set()
    for folder in FOLDERS:
        for path in (provision.REPO / folder).rglob("*.py"):
            found.update(templates(ast.parse(path.read_text(encoding="utf-8"))))
    return tuple(map(Template.of, sorted(found, key=str)))


def templates(tree: ast.AST) -> Iterator[Parts]:
    """The templates of one file, and their beginnings up to the end of each clause."""
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for parts in _strings(tree, docstrings):
        joined = _joined(parts)
        for beginning in _beginnings(joined):
            if sum(map(str.isalpha, "".join(filter(None, beginning)))) >= _FEWEST_LETTERS:
                yield beginning


def _strings(node: ast.AST, docstrings: set[int]) -> Iterator[Parts]:
    if id(node) in docstrings:
        return
    parts = _parts(node)
    if parts:
        yield parts
    for child in _holes(node) if parts else ast.iter_child_nodes(node):
        yield from _strings(child, docstrings)


def _parts(node: ast.AST) -> Parts:
    """Text and holes of a string, an f-string or a sum of them; nothing for any other expression."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return (node.value,)
    if isinstance(node, ast.JoinedStr):
        return tuple(part for value in node.values for part in _parts(value) or (None,))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add) and (_parts(node.left) or _parts(node.right)):
        return (*(_parts(node.left) or (None,)), *(_parts(node.right) or (None,)))
    return ()


def _holes(node: ast.AST) -> Iterator[ast.AST]:
    """The expressions in the holes of a template, which may have strings of their own."""
    if isinstance(node, ast.JoinedStr):
        yield from (value.value for value in node.values if isinstance(value, ast.FormattedValue))
    elif isinstance(node, ast.BinOp):
        for side in (node.left, node.right):
            yield from _holes(side) if _parts(side) else (side,)


def _joined(parts: Iterable[str | None]) -> Parts:
    """The same with neighbours made one, and without the quotes of code, which a quotation in code cannot hold."""
    joined: list[str | None] = []
    for part in parts:
        text = part and part.replace("`", "")
        if joined and text is not None and joined[-1] is not None:
            joined[-1] += text
        elif not joined or text is not None or joined[-1] is not None:
            joined.append(text)
    return tuple(joined)


def _beginnings(parts: Parts) -> Iterator[Parts]:
    yield parts
    for index, part in enumerate(parts):
        for end in _CLAUSE_END.finditer(part or ""):
            yield (*parts[:index], (part or "")[: end.start()])
