"""The figures of the code, each with its limit: imports, shapes in docstrings, lengths, repeats, tests, patches.

    python tests/figures.py            each figure, its limit, and whether it is met
    python tests/figures.py --list     the places behind each figure too

Exits with 1 if a limit is passed. `tests/test_figures.py` holds the same limits in the default tests. The time of a
bare `pytest` is that of its last whole run, which leaves it in pytest's cache; it is shown and fails nothing, since
machines differ.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import NamedTuple

from tests.support import code_shape, patches
from tests.support.code_shape import Source

REPO = Path(__file__).resolve().parents[1]
CORE, NODES, SCRIPTS = "cogvideox_core", "nodes", "web/js"
MOST_PARAMETERS = 6
BARE_SECONDS = REPO / ".pytest_cache" / "v" / "cogvideox" / "bare_seconds"  # where tests/conftest.py leaves it

# Modules without a test file of their name, and why.
WITHOUT_TESTS = {
    "cogvideox_core/__main__.py": "calls cli.main.main; tests/core/cli/test_generate.py starts it as a command",
}


class Figure(NamedTuple):
    """A number, its limit, and the places that make it."""

    name: str
    value: float
    limit: float
    places: list[str]
    at_least: bool = False
    unit: str = ""

    @property
    def is_met(self) -> bool:
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def line(self) -> str:
        """`met  longest import chain  8  (at most 9)`."""
        bound = f"(at {'least' if self.at_least else 'most'} {self.limit:g}{self.unit})"
        value = f"{self.value:.3g}" if self.value < 1000 else f"{self.value:.0f}"
        return f"{'met' if self.is_met else 'NOT MET':<8}{self.name:<52}{value + self.unit:>8}  {bound}"


def figures(root: Path = REPO) -> list[Figure]:
    """All that is counted in the source text below `root`."""
    core = code_shape.sources(root, CORE)
    both = [*core, *code_shape.sources(root, NODES)]
    return [
        *_rooms(root, core),
        _documented_shapes(both),
        _counted("nested comprehensions", code_shape.nested_comprehensions(both), 5),
        _counted(f"functions over {MOST_PARAMETERS} parameters", code_shape.long_signatures(both, MOST_PARAMETERS), 12),
        *_lengths(both),
        _repeated(both),
        _counted("modules of the core without a test of their name", without_tests(root, core), 0),
        _counted("changes of other packages", _all_patches(root, both), 3),
    ]


def _counted(name: str, places: list[str], limit: int) -> Figure:
    return Figure(name, len(places), limit, places)


def _rooms(root: Path, core: list[Source]) -> list[Figure]:
    chain = code_shape.longest_chain(core)
    entries = sorted(path.name for path in (root / CORE).iterdir() if path.name != "__pycache__")
    return [_counted("longest import chain of the core", chain, 9), _counted("entries at the core's top", entries, 12)]


def _documented_shapes(both: list[Source]) -> Figure:
    all_of_them = code_shape.tensor_functions(both)
    silent = [found.place for found in all_of_them if not code_shape.states_a_shape(found.node)]
    share = 100 * (1 - len(silent) / len(all_of_them)) if all_of_them else 100.0
    return Figure("public Tensor functions with shapes", share, 90, silent, at_least=True, unit=" %")


def _lengths(both: list[Source]) -> list[Figure]:
    lengths = code_shape.body_lengths(both)
    typical, longest = code_shape.percentile(lengths.values(), 0.95), max(lengths.values(), default=0)
    places = [f"{place} {length} lines" for place, length in lengths.items() if length > 20]
    return [
        Figure("body, 95 in 100", typical, 20, places, unit=" lines"),
        Figure("body, the longest", longest, 48, [place for place in places if f" {longest} " in place], unit=" lines"),
    ]


def _repeated(both: list[Source]) -> Figure:
    places, count = code_shape.repeats(both)
    share = 100 * len(places) / count if count else 0.0
    return Figure(f"repeat ({code_shape.WINDOW}-line windows)", round(share, 1), 0.3, places, unit=" %")


def _all_patches(root: Path, both: list[Source]) -> list[str]:
    return [*patches.patches(both), *patches.script_patches(root, SCRIPTS)]


def without_tests(root: Path, core: list[Source]) -> list[str]:
    """The modules of the core with no `tests/core/<room>/test_<module>.py` that has a test in it.

    A package's `__init__` is looked for under its folder's name, beside the folder; one that holds a docstring alone
    needs none.
    """
    return [
        f"{source.path.as_posix()} ({expected.as_posix()})"
        for source, expected in ((source, test_file(source.path)) for source in core)
        if not _is_docstring_alone(source)
        and source.path.as_posix() not in WITHOUT_TESTS
        and not _has_tests(root / expected)
    ]


def test_file(module: Path) -> Path:
    """Where the tests of a module of the core are: tests/core/vae/test_tiling.py for cogvideox_core/vae/tiling.py."""
    if module.name == "__init__.py":
        module = module.parent.with_suffix(".py")
    inside = module.relative_to(CORE).parent if module.parts[0] == CORE else Path()
    return Path("tests", "core", inside, f"test_{module.stem.strip('_')}.py")


def _is_docstring_alone(source: Source) -> bool:
    return source.path.name == "__init__.py" and len(source.tree.body) <= 1


def _has_tests(path: Path) -> bool:
    return path.is_file() and "\ndef test_" in path.read_text(encoding="utf-8")


def bare_time() -> Figure | None:
    """The time of the last whole run of bare `pytest`, by the clock; None before one."""
    if not BARE_SECONDS.is_file():
        return None
    taken = json.loads(BARE_SECONDS.read_text(encoding="utf-8"))
    places = [f"{taken['processor']:.0f} s of the processor, {taken['tests']} tests"]
    return Figure("bare pytest", round(taken["wall"]), 120, places, unit=" s")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="The figures of the code and their limits.")
    parser.add_argument("--list", action="store_true", help="the places behind each figure too")
    options = parser.parse_args(arguments)
    found = figures()
    timed = bare_time()
    for figure in [*found, *([timed] if timed else [])]:
        print(figure.line())
        for place in figure.places if options.list else []:
            print(f"        {place}")
    if timed is None:
        print("not known: the time of bare pytest; run `pytest` once")
    return 0 if all(figure.is_met for figure in found) else 1  # a time depends on the machine: it is shown, no more


if __name__ == "__main__":
    sys.exit(main())
