"""The frontend has what our scripts use of it: every member that tests/web/types/comfyui.d.ts lists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.browser import Canvas

TYPES = Path(__file__).parents[1] / "web" / "types" / "comfyui.d.ts"
INTERFACE = re.compile(r"/\*\* @found (?P<found>.+) \*/\ninterface (?P<name>\w+) \{\n(?P<body>(?:  .*\n|\n)*)\}")
MEMBER = re.compile(r"^  (\w+)(?:<[^>]*>)?[(:]", re.MULTILINE)  # optional ones have a ? after the name
MISSING = "([found, names]) => { const object = eval(found); return names.filter((name) => !(name in object)) }"


def interfaces() -> list[re.Match[str]]:
    return list(INTERFACE.finditer(TYPES.read_text(encoding="utf-8")))


def test_every_interface_that_says_where_it_is_found_is_read() -> None:
    text = TYPES.read_text(encoding="utf-8")
    assert len(interfaces()) == text.count("/** @found") > 5
    assert all(MEMBER.findall(interface["body"]) for interface in interfaces())


@pytest.mark.parametrize("interface", interfaces(), ids=lambda interface: interface["name"])
def test_the_frontend_has_every_member(shared_canvas: Canvas, interface: re.Match[str]) -> None:
    names = MEMBER.findall(interface["body"])
    assert shared_canvas.evaluate(MISSING, [interface["found"], names]) == []
