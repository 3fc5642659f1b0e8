"""The words beside the code: the nodes' help in web/docs, the locales, and which sentences the code can say."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from tests import provision

DOCS = provision.REPO / "web" / "docs"
INTERFACE: dict[str, dict[str, Any]] = json.loads(
    (provision.REPO / "tests" / "nodes" / "interface.json").read_text(encoding="utf-8")
)
LANGUAGES = ("en", "zh")
_SHORTEST = 8  # characters of a fragment that counts as said
_LONGEST_VALUE = 28  # characters of a file name, number or system's message between what is said

Table = list[list[str]]


def help_file(node_id: str, language: str) -> Path:
    """The page ComfyUI shows of a node: that of the language, else the one without."""
    return DOCS / f"{node_id}.md" if language == "en" else DOCS / node_id / f"{language}.md"


def help_text(node_id: str, language: str) -> str:
    return help_file(node_id, language).read_text(encoding="utf-8")


def locale(language: str) -> dict[str, Any]:
    """The words of the nodes in a language."""
    return json.loads((provision.REPO / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))


def tables(text: str) -> dict[str, Table]:
    """The rows of every table of a page, without their head, by the heading above."""
    found: dict[str, Table] = {}
    heading = ""
    for line in text.splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif line.startswith("| "):
            found.setdefault(heading, []).append([cell.strip() for cell in line.strip("| ").split(" | ")])
    return {heading: rows[1:] for heading, rows in found.items()}


def documented(text: str) -> dict[str, list[str]]:
    """What the tables of a help page have in code in the first cell, by its first piece: a name, and its default."""
    rows = [re.findall(r"`([^`]+)`", row[0]) for table in tables(text).values() for row in table]
    return {name: rest for name, *rest in filter(None, rows)}


def quoted(text: str) -> list[str]:
    """The sentences that a page quotes: each begins an item of a list, or fills the first cell of a row."""
    return [said for said in re.findall(r"^(?:- |\| )`([^`]+)`(?:<br>| \|)", text, re.MULTILINE) if " " in said]


def unsaid(sentence: str) -> list[str]:
    """What of a sentence stands nowhere in the code and is too long for a value put into it."""
    covered = [False] * len(sentence)
    for fragment in _fragments():
        for match in re.finditer(re.escape(fragment), sentence):
            covered[match.start() : match.end()] = [True] * len(fragment)
    marked = "".join(" " if said else character for said, character in zip(covered, sentence, strict=True))
    return [part for part in re.split(r" {2,}", marked) if len(part) > _LONGEST_VALUE]


@cache
def _fragments() -> tuple[str, ...]:
    """The literal parts of every string in the code that is no docstring."""
    found: set[str] = set()
    for folder in ("cogvideox_core", "nodes"):
        for path in (provision.REPO / folder).rglob("*.py"):
            found.update(_literals(ast.parse(path.read_text(encoding="utf-8"))))
    return tuple(fragment for fragment in found if len(fragment) >= _SHORTEST)


def _literals(tree: ast.AST) -> Iterator[str]:
    docstrings = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value.replace("`", "")  # which code in a table cannot hold
