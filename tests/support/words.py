"""The words about the nodes: their help in web/docs, the locales, and which sentences pages quote."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tests import provision

DOCS = provision.REPO / "web" / "docs"
INTERFACE: dict[str, dict[str, Any]] = json.loads(
    (provision.REPO / "tests" / "nodes" / "interface.json").read_text(encoding="utf-8")
)
LANGUAGES = ("en", "zh")

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
