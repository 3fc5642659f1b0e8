"""A page with the canvas for all tests of a file, in both renderers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.support.browser import Canvas
    from tests.support.host import Host


LEAVE_SUBGRAPH = "() => { if (app.canvas.graph !== app.rootGraph) app.canvas.setGraph(app.rootGraph) }"


@pytest.fixture(scope="module")
def shared_canvas(chromium: Any, host: Host) -> Iterator[Canvas]:
    """One page for all tests of a module: opening it takes longer than most of them."""
    from tests.support.browser import Canvas

    page = Canvas(chromium, host)
    yield page
    page.close()


@pytest.fixture(params=["classic", "Nodes 2.0"])
def open_page(request: pytest.FixtureRequest, shared_canvas: Canvas) -> Iterator[Canvas]:
    """The shared page in each renderer, no error noted yet; a dialog or subgraph that a test leaves open is closed."""
    shared_canvas.use_nodes_2(request.param == "Nodes 2.0")
    shared_canvas.console_errors.clear()
    shared_canvas.failed_requests.clear()
    yield shared_canvas
    shared_canvas.page.keyboard.press("Escape")
    shared_canvas.evaluate(LEAVE_SUBGRAPH)
