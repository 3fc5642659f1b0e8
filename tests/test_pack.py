"""The pack as the tools of ComfyUI's publishers see it: the linter for packs, and the registry's own checks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.provision import REPO

SILENT = {"DO_NOT_TRACK": "1", "COMFY_NO_UPDATE_CHECK": "1", "PYTHONIOENCODING": "utf-8"}


def run_tool(home: Path, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a Python module on the repository. It has its own home folder, and sends nothing anywhere."""
    folders = dict.fromkeys(("HOME", "USERPROFILE", "APPDATA", "LOCALAPPDATA", "XDG_CONFIG_HOME"), str(home))
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=REPO,
        env=os.environ | folders | SILENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
    )


def test_the_linter_for_packs_finds_nothing(tmp_path: Path) -> None:
    """Python that every system can read, and scripts that keep off what all packs share; warnings count."""
    done = run_tool(tmp_path, "comfy_test", "lint", "--strict")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_registry_finds_nothing(tmp_path: Path) -> None:
    """What `comfy node publish` checks first. It succeeds with warnings too, so they are looked for."""
    done = run_tool(tmp_path, "comfy_cli", "--skip-prompt", "node", "validate")
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "All validation checks passed" in said and "warning" not in said.lower(), said


def test_a_commit_is_checked_with_the_versions_of_package_json() -> None:
    hooks = (REPO / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    for name, version in json.loads((REPO / "package.json").read_text(encoding="utf-8"))["devDependencies"].items():
        assert f'additional_dependencies: ["{name}@{version}"]' in hooks


def test_the_lock_of_the_script_checkers_names_no_server() -> None:
    packages = json.loads((REPO / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    assert all("integrity" in package for name, package in packages.items() if name)
    assert not any("resolved" in package for package in packages.values())
