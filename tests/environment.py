"""Virtual environments for tests. Standard library only: run_all.py and run_floors.py use it on a bare machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import provision


def say(text: str) -> None:
    """Print at once, so that lines keep their order among those of child processes."""
    print(text, flush=True)


def run_quietly(command: list[str], cwd: Path = provision.REPO) -> subprocess.CompletedProcess[str]:
    """Run a command for its answer, not for its output."""
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


def python_of(venv: Path) -> Path:
    """The environment's Python."""
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def make_venv(venv: Path) -> None:
    """Create an environment, or keep it when it works and is of this Python version.

    Raises: ProvisionError if none can be made.
    """
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    probe = "import pip, sys; print('%d.%d' % sys.version_info[:2])"
    python = python_of(venv)
    if python.is_file() and run_quietly([str(python), "-c", probe]).stdout.strip() == version:
        return
    say(f"Making {venv.name} (Python {version}) ...")
    shutil.rmtree(venv, ignore_errors=True)
    if run_quietly([sys.executable, "-m", "venv", str(venv)]).returncode == 0:
        return
    # Debian's python3 without python3-venv has no ensurepip; its pip can fill a bare environment.
    shutil.rmtree(venv, ignore_errors=True)
    bare = run_quietly([sys.executable, "-m", "venv", "--without-pip", str(venv)])
    filled = run_quietly([sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "pip"])
    if bare.returncode or filled.returncode:
        raise provision.ProvisionError(
            "No virtual environment could be made; install Debian's python3-venv.\n" + filled.stderr.strip()
        )


def install(venv: Path, arguments: list[str]) -> None:
    """`pip install` in an environment.

    Raises: ProvisionError with the end of pip's own words if it fails.
    """
    command = [str(python_of(venv)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments]
    result = run_quietly(command)
    if result.returncode:
        raise provision.ProvisionError("The packages could not be installed:\n" + result.stderr.strip()[-3000:])
