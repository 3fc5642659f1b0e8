"""Bare pytest leaves out what needs more than Python packages, and the option of each tier brings it back."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests import provision

SAMPLE = "tests/test_project.py"  # it has tests of three tiers
OF_COMFY, OF_BROWSER, OF_NONE = (
    "test_host_runs_a_prompt",
    "test_canvas_opens_without_an_error",
    "test_core_imports_nothing_of_the_host",
)


def collected(*options: str) -> str:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", SAMPLE, *options]
    return subprocess.run(command, cwd=provision.REPO, capture_output=True, text=True).stdout


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], {OF_NONE}),
        (["--comfy"], {OF_NONE, OF_COMFY}),
        (["--browser"], {OF_NONE, OF_BROWSER}),
        (["--comfy", "--browser"], {OF_NONE, OF_COMFY, OF_BROWSER}),
    ],
)
def test_a_tier_runs_where_it_is_asked_for(options: list[str], expected: set[str]):
    printed = collected(*options)
    assert {name for name in (OF_COMFY, OF_BROWSER, OF_NONE) if f"::{name}\n" in printed} == expected
    assert ("not run: ComfyUI, started or imported (--comfy)" in printed) == (OF_COMFY not in expected)
    assert ("not run: the canvas in Chromium (--browser)" in printed) == (OF_BROWSER not in expected)
