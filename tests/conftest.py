"""Which tests run, and fixtures: a running ComfyUI (`host`, `start_host`), its canvas in Chromium (`canvas`,
`open_canvas`), the pack imported into this process (`pack`), official weights (`official_weights`).

Bare `pytest` runs the tests that need nothing but Python packages and little time, shared among
processes. Each tier of TIERS is asked for with the option of its name; `tests/run_all.py` asks for all. Tests get the
marks of most tiers from the fixtures they use; slow are those that tests/slow.py lists.
"""

from __future__ import annotations

import gc
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from tests import provision
from tests.figures import BARE_SECONDS
from tests.slow import slow_cases
from tests.support.pack import load_pack

if TYPE_CHECKING:  # what tests of the core alone need not have installed
    from tests.support.browser import Canvas
    from tests.support.host import Host

pytest.register_assert_rewrite("tests.support.browser")  # so that a failing Canvas.check() shows its lists

os.environ.setdefault("COGVIDEOX_MEASURE", "off")  # no test's numbers depend on which library was faster just now

PROBES = Path(__file__).parent / "host_probes"


TIERS = {
    "slow": "sweeps of many sizes and variants, and training runs",
    "comfy": "ComfyUI, started or imported",
    "browser": "the canvas in Chromium",
    "gpu": "a CUDA device; skipped without one",
    "weights": "official weights: a folder of model folders in COGVIDEOX_WEIGHTS; skipped without it",
}
FIXTURES_OF_TIERS = {
    "comfy": {"host", "start_host", "pack"},
    "browser": {"chromium"},
    "weights": {"official_weights"},
}
NOT_RUN = pytest.StashKey[Counter[str]]()
STARTED = pytest.StashKey[float]()
MOST_PROCESSES = 4  # of a bare run; each imports PyTorch, and its tests compute in one thread


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("cogvideox", "tests that need more than Python packages")
    for tier, needs in TIERS.items():
        group.addoption(f"--{tier}", action="store_true", help=f"also run tests that need {needs}")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[STARTED] = time.monotonic()
    for tier, needs in TIERS.items():
        config.addinivalue_line("markers", f"{tier}: needs {needs}; runs with --{tier}")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Let pytest-xdist share a bare run among processes, where it is installed and nobody says how many."""
    if is_bare(config) and getattr(config.option, "numprocesses", 0) is None and not hasattr(config, "workerinput"):
        config.option.numprocesses = min(MOST_PROCESSES, os.cpu_count() or 1)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark tests by the fixtures they use, leave out those of tiers not asked for, run the quick ones first.

    The browser's must be last for a second reason: Playwright leaves an event loop running in this thread, so
    asyncio.run() fails once it has started.
    """
    slow = slow_cases(getattr(item, "originalname", item.name) for item in items)
    for item, is_slow in zip(items, slow, strict=True):
        if is_slow:
            item.add_marker("slow")
        for tier, fixtures in FIXTURES_OF_TIERS.items():
            if fixtures & set(getattr(item, "fixturenames", ())):
                item.add_marker(tier)
        if item.get_closest_marker("gpu") and config.getoption("--gpu") and not has_gpu():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
    missing = {item.nodeid: missing_tier(item) for item in items}
    config.stash[NOT_RUN] = Counter(tier for tier in missing.values() if tier)
    left_out = [item for item in items if missing[item.nodeid]]
    items[:] = [item for item in items if not missing[item.nodeid]]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
    items.sort(key=lambda item: [item.get_closest_marker(name) is not None for name in ("browser", "comfy")])


def pytest_collection_finish() -> None:
    """Spare the garbage collector what lives until the end, PyTorch and the tests: each video read calls it."""
    gc.collect()
    gc.freeze()


def missing_tier(item: pytest.Item) -> str | None:
    """The tier a test belongs to that was not asked for; None if it may run. --browser starts its ComfyUI itself."""
    tiers = {tier for tier in TIERS if item.get_closest_marker(tier)}
    if "browser" in tiers:
        tiers.discard("comfy")
    return next((tier for tier in sorted(tiers) if not item.config.getoption(f"--{tier}")), None)


def is_bare(config: pytest.Config) -> bool:
    """Whether all tests of no tier were asked for, and nothing else."""
    narrowing = (*(f"--{tier}" for tier in TIERS), "collectonly", "keyword", "markexpr", "lf", "stepwise")
    from_settings = config.args_source == pytest.Config.ArgsSource.TESTPATHS
    return from_settings and not any(config.getoption(name, default=None) for name in narrowing)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say how to run what was left out."""
    for tier, count in config.stash.get(NOT_RUN, Counter()).items():
        terminalreporter.write_line(f"{count} not run: {TIERS[tier]} (--{tier})")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Leave the time of a whole bare run for tests/figures.py: by the clock, and of the processor."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:  # this is a process of pytest-xdist
        output["not_run"] = dict(session.config.stash.get(NOT_RUN, Counter()))
        return
    whole = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) and not session.shouldfail
    if not whole or not is_bare(session.config):
        return
    times = os.times()
    taken = {
        "wall": time.monotonic() - session.config.stash[STARTED],
        "processor": times.user + times.system + times.children_user + times.children_system,
        "tests": session.testscollected,
    }
    BARE_SECONDS.parent.mkdir(parents=True, exist_ok=True)
    BARE_SECONDS.write_text(json.dumps(taken), encoding="utf-8")


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """What a process of pytest-xdist left out; all of them leave out the same."""
    node.config.stash[NOT_RUN] = Counter(node.workeroutput["not_run"])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """To a failed test: what its page shows and its console said, and the end of its server's log."""
    report = yield
    if report.failed and call.when == "call":
        distinct = {id(value): (name, value) for name, value in getattr(item, "funcargs", {}).items()}
        for name, value in distinct.values():
            describe = getattr(value, "describe", None)
            if callable(describe):
                report.sections.append((f"{name}, afterwards", str(describe())))
    return report


@cache
def has_gpu() -> bool:
    """Whether PyTorch sees a CUDA device."""
    import torch

    return torch.cuda.is_available()


def extra_packs() -> list[Path]:
    """The test-only packs of the shared host: every folder in tests/host_probes that is one."""
    return sorted(path.parent for path in PROBES.glob("*/__init__.py"))


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """The ComfyUI server that tests share. Add models of your own names; leave its settings as they were."""
    from tests.support.host import Host

    with Host(tmp_path_factory.mktemp("host"), extra_packs=extra_packs()) as running:
        yield running


@pytest.fixture
def start_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Host]]:
    """Start a server of this test's own: `start_host("--disable-api-nodes", extra_packs=[...])`."""
    from tests.support.host import Host

    with ExitStack() as running:

        def start(*arguments: str, **options: Any) -> Host:
            options.setdefault("extra_packs", extra_packs())
            return running.enter_context(Host(tmp_path_factory.mktemp("host"), arguments, **options))

        yield start


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """The browser that tests share."""
    from tests.support import browser

    missing = None
    with ExitStack() as running:
        try:
            opened = running.enter_context(browser.chromium())
        except provision.ProvisionError as error:
            missing = str(error)
        else:
            yield opened
    if missing:
        pytest.fail(missing, pytrace=False)


@pytest.fixture
def open_canvas(chromium: Any) -> Iterator[Callable[[Host], Canvas]]:
    """Open a page with the canvas of any host: `open_canvas(host)`; twice for two clients."""
    from tests.support.browser import Canvas

    with ExitStack() as opened:

        def open_page(host: Host) -> Canvas:
            canvas = Canvas(chromium, host)
            opened.callback(canvas.close)
            return canvas

        yield open_page


@pytest.fixture
def canvas(open_canvas: Callable[[Host], Canvas], host: Host) -> Canvas:
    """A new page with the shared host's canvas."""
    return open_canvas(host)


@pytest.fixture(scope="session")
def pack() -> ModuleType:
    """`load_pack()`, once."""
    return load_pack()


@pytest.fixture(scope="session")
def official_weights() -> Path:
    """The folder that COGVIDEOX_WEIGHTS names: published model folders, or one of them."""
    given = os.environ.get("COGVIDEOX_WEIGHTS")
    if not given:
        pytest.skip("COGVIDEOX_WEIGHTS names no folder of official weights")
    folder = Path(given).expanduser()
    if not folder.is_dir():
        pytest.fail(f"COGVIDEOX_WEIGHTS={given} is no folder", pytrace=False)
    return folder
