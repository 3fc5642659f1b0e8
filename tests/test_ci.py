"""The files for GitHub: workflows and templates that parse, and commands in them that are there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import provision

GITHUB = provision.REPO / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
FORMS = sorted(path for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")
FILES = re.compile(r"(?<![\w./-])(?:\.ci|tests|tools|benchmarks)/[\w./-]*\w")

every_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


def jobs(path: Path) -> dict[str, dict[str, Any]]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]


def steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in jobs(path).values() for step in job.get("steps", [])]


def test_there_is_a_workflow_for_each_purpose():
    assert [path.stem for path in WORKFLOWS] == ["core", "full", "lint", "nightly", "publish"]


@every_workflow
def test_a_workflow_may_read_and_no_more(path: Path):
    """What a job needs beyond that, it asks for itself."""
    assert yaml.safe_load(path.read_text(encoding="utf-8"))["permissions"] == {"contents": "read"}


@every_workflow
def test_no_job_runs_for_ever(path: Path):
    assert [name for name, job in jobs(path).items() if "uses" not in job and "timeout-minutes" not in job] == []


@every_workflow
def test_actions_are_of_a_version(path: Path):
    used = [use for step in [*steps(path), *jobs(path).values()] if (use := step.get("uses"))]
    assert [use for use in used if not use.startswith("./") and use.rpartition("@")[2] in ("", "main", "master")] == []


@every_workflow
def test_the_files_that_commands_name_are_there(path: Path):
    commands = "\n".join(str(step.get("run", "")) for step in steps(path))
    assert [name for name in FILES.findall(commands) if not (provision.REPO / name).exists()] == []


def test_only_tags_publish():
    published = yaml.safe_load((GITHUB / "workflows" / "publish.yml").read_text(encoding="utf-8"))
    assert published[True] == {"push": {"tags": ["v*"]}}, "YAML takes the key `on` for a truth value"
    for name in ("pypi", "comfy-registry"):
        assert set(published["jobs"][name]["needs"]) == {"tests", "build"}


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_an_issue_form_has_what_github_asks_for(path: Path):
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert form["name"]
    assert form["description"]
    for field in form["body"]:
        assert field["type"] in ("textarea", "input", "dropdown", "checkboxes", "markdown")
        assert field["attributes"]["label"]


def test_there_is_a_form_for_bugs_and_one_for_official_weights():
    assert [path.stem for path in FORMS] == ["bug", "real-weights"]
    assert "cogvideox check-weights FOLDER" in FORMS[1].read_text(encoding="utf-8")
