"""The core's tests with the oldest versions that pyproject.toml promises, or with the newest there are.

    python3 tests/run_floors.py [pytest arguments]             every requirement at its floor
    python3 tests/run_floors.py --newest [pytest arguments]    every requirement at its newest

Makes .venv-floors/ or .venv-newest/ of the Python that runs it. The floors are read from pyproject.toml, so what is
promised and what is tested cannot differ. The oldest Python that is promised is the best one to run floors with: old
releases have no wheels for new Pythons.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import provision
from environment import install, make_venv, python_of, say

EXTRAS = ("train", "int8", "gguf")  # what the core's tests use besides the requirements
FOR_TESTS = ("peft", "pytest", "setuptools>=77")
TESTS = ("tests/core", "tests/tools")
_REQUIREMENT = re.compile(r'"([\w.-]+)>=([\w.]+)"')


def main(arguments: list[str]) -> int:
    newest = "--newest" in arguments
    venv = provision.REPO / (".venv-newest" if newest else ".venv-floors")
    try:
        make_venv(venv)
        say("Installing packages ...")
        install_newest(venv) if newest else install_floors(venv)
    except provision.ProvisionError as error:
        say(str(error))
        return 1
    say(versions(venv))
    command = [str(python_of(venv)), "-m", "pytest", "-p", "no:cacheprovider", *TESTS]
    return subprocess.run(
        [*command, *(word for word in arguments if word != "--newest")], cwd=provision.REPO
    ).returncode


def floors() -> dict[str, str]:
    """Every requirement's oldest promised version, those of EXTRAS too, as pyproject.toml has them."""
    text = (provision.REPO / "pyproject.toml").read_text(encoding="utf-8")
    lists = [_list_of(text, name) for name in ("dependencies", *EXTRAS)]
    return dict(_REQUIREMENT.findall("\n".join(lists)))


def _list_of(text: str, name: str) -> str:
    """What is in the brackets of a list in pyproject.toml."""
    found = re.search(rf"^{name} = \[(.*?)\]$", text, re.MULTILINE | re.DOTALL)
    if found is None:
        raise provision.ProvisionError(f"pyproject.toml has no list {name}")
    return found[1]


def install_floors(venv: Path) -> None:
    """The core with every requirement at its floor; what they need themselves is left to pip."""
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "floors.txt"
        constraints.write_text("".join(f"{name}=={version}\n" for name, version in floors().items()))
        install(venv, [*FOR_TESTS, "--constraint", str(constraints), "-e", f".[{','.join(EXTRAS)}]"])


def install_newest(venv: Path) -> None:
    """The core with everything at its newest."""
    install(venv, ["--upgrade", "--upgrade-strategy", "eager", *FOR_TESTS, "-e", f".[{','.join(EXTRAS)}]"])


def versions(venv: Path) -> str:
    """One line: what is installed of the requirements."""
    code = "import sys; from importlib.metadata import version; print(*(f'{n} {version(n)}' for n in sys.argv[1:]))"
    command = [str(python_of(venv)), "-c", code, *sorted(floors())]
    installed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return f"Python {sys.version.split()[0]}, {installed}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
