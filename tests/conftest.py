"""Fixtures: a running ComfyUI (`host`, `start_host`), its canvas in Chromium (`canvas`, `open_canvas`), and the
pack imported into this process (`pack`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from tests import provision
from tests.support.pack import load_pack

if TYPE_CHECKING:  # what tests of the core alone need not have installed
    from tests.support.browser import Canvas
    from tests.support.host import Host

pytest.register_assert_rewrite("tests.support.browser")  # so that a failing Canvas.check() shows its lists

PROBES = Path(__file__).parent / "host_probes"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by the fixtures they use, and run the quick ones first and the browser's last.

    The browser's must be last for a second reason: Playwright leaves an event loop running in this thread, so
    asyncio.run() fails once it has started.
    """
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if fixtures & {"host", "start_host", "pack"}:
            item.add_marker("comfy")
        if "chromium" in fixtures:
            item.add_marker("browser")
        if item.get_closest_marker("gpu") and not has_gpu():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
    items.sort(key=lambda item: [item.get_closest_marker(name) is not None for name in ("browser", "comfy")])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """To a failed test: what its page shows and its console said, and the end of its server's log."""
    report = yield
    if report.failed and call.when == "call":
        told = {id(value): (name, value) for name, value in getattr(item, "funcargs", {}).items()}
        for name, value in told.values():
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
