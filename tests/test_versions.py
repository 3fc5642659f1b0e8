"""The versions that tests use: pinned in one file, which fits what pyproject.toml promises."""

from __future__ import annotations

import re

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests import provision
from tests.support.project import pyproject

LINES = (provision.REPO / "tests" / "constraints.txt").read_text(encoding="utf-8").splitlines()
PINNED = dict(line.split("==") for line in LINES if line and not line.startswith("#"))
PROJECT = pyproject()["project"]
PROMISES = [Requirement(line) for line in (*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["test"])]


@pytest.mark.parametrize("promise", PROMISES, ids=str)
def test_the_version_tested_is_one_that_is_promised(promise: Requirement):
    version = PINNED.get(promise.name)
    assert version is None or promise.specifier.contains(version)


def test_every_package_of_the_tests_is_pinned():
    ours = {canonicalize_name(Requirement(line).name) for line in PROJECT["optional-dependencies"]["test"]}
    assert ours - {canonicalize_name(name) for name in PINNED} == set()


def test_pre_commit_uses_the_same_tools():
    text = (provision.REPO / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    used = set(re.findall(r'"([\w-]+)==([\w.]+)"', text))
    assert {name for name, _ in used} == {"ruff", "pyright"}
    assert used == {(name, PINNED[name]) for name in ("ruff", "pyright")}


def test_the_floors_that_are_tested_are_those_that_are_promised(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(provision.REPO / "tests"))  # the script imports its neighbours
    import run_floors

    lists = [PROJECT["dependencies"], *(PROJECT["optional-dependencies"][extra] for extra in run_floors.EXTRAS)]
    promised = [Requirement(line) for lines in lists for line in lines]
    assert run_floors.floors() == {
        requirement.name: str(requirement.specifier).removeprefix(">=") for requirement in promised
    }
