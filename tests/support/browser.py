"""ComfyUI's real canvas in a real Chromium, driven by Playwright.

The browser sees the test host and nothing else: requests to other addresses are refused.
"""

from __future__ import annotations

import base64
import json
import mimetypes
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Error,
    Page,
    Request,
    Response,
    Route,
    ViewportSize,
    sync_playwright,
)

from tests import provision
from tests.support.host import Host

CHROMIUM_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--autoplay-policy=no-user-gesture-required",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)
WINDOW: ViewportSize = {"width": 1600, "height": 1000}
# With a client id, too: a prompt that is queued before the server has given one is answered to nobody. And with the
# frontend's own first workflow, which would otherwise come later, in place of what a test has opened by then.
READY = """
() => Boolean(window.app?.isGraphReady && window.app.vueAppReady && window.comfyAPI?.api?.api?.clientId
  && window.app.extensionManager.workflow.activeWorkflow)
"""
READY_TIMEOUT = 90_000  # milliseconds
DESCRIBED = 2_000  # characters of the page in a failed test's report
EMPTY = {"nodes": [], "links": [], "version": 0.4}  # a workflow
NODES_2 = "Comfy.VueNodes.Enabled"

# Drop a file on the empty canvas, as from the desktop.
DROP_FILE = """
async ([content, name, type]) => {
  const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0))
  const data = new DataTransfer()
  data.items.add(new File([bytes], name, {type}))
  const where = {bubbles: true, cancelable: true, clientX: 300, clientY: 700, dataTransfer: data}
  const target = document.querySelector('#graph-canvas')
  target.dispatchEvent(new DragEvent('dragover', where))
  target.dispatchEvent(new DragEvent('drop', where))
}
"""

# The frontend logs this once, by itself, whenever it starts. A second one is an extension's doing.
START_MESSAGE = "ComfyApp graph accessed before initialization"

# For model files that are missing, those of its own first workflow too, the frontend asks the hub how large they are,
# and blocks that itself where API nodes are disabled.
MODEL_QUESTIONS = ("https://huggingface.co/", "/missingModelDownload")

# Object URLs that are alive: those made less those revoked, from here on.
COUNT_BLOBS = """
() => {
  if (window.liveBlobs) return window.liveBlobs.clear()
  window.liveBlobs = new Set()
  const {createObjectURL, revokeObjectURL} = URL
  URL.createObjectURL = (blob) => {
    const url = createObjectURL.call(URL, blob)
    window.liveBlobs.add(url)
    return url
  }
  URL.revokeObjectURL = (url) => {
    window.liveBlobs.delete(url)
    revokeObjectURL.call(URL, url)
  }
}
"""

# Files of the user that the frontend asks for on every start and that a new user has not made yet.
OPTIONAL_FILES = ("/userdata", "/user.css")


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless Chromium. Without one on the machine: an error with one sentence."""
    program = provision.find_chromium()
    if program is None:
        raise provision.ProvisionError(provision.missing_chromium())
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(program), args=list(CHROMIUM_FLAGS))
        yield browser
        browser.close()


class Canvas:
    """One browser page with a host's canvas, ready for use.

    `console_errors` and `failed_requests` collect what went wrong on the page; `check()` asserts that nothing did.
    `page` is the Playwright page.
    """

    def __init__(self, browser: Browser, host: Host):
        self.host = host
        self.console_errors: list[str] = []
        self.failed_requests: list[str] = []
        self._start_messages_due = 0
        self._context = browser.new_context(viewport=WINDOW, accept_downloads=True)
        self.page: Page = self._context.new_page()
        self.page.on("console", self._note_console)
        self.page.on("pageerror", lambda error: self.console_errors.append(str(error)))
        self.page.on("response", self._note_response)
        self.page.on("requestfailed", self._note_failure)
        self.page.route("**/*", self._refuse_strangers)
        self.open()

    def open(self) -> None:
        """Load, or load again, and wait until the canvas is ready."""
        self._start_messages_due = 1
        self.page.goto(self.host.url, wait_until="domcontentloaded")
        self.page.wait_for_function(READY, timeout=READY_TIMEOUT)

    def close(self) -> None:
        """Close the page."""
        self._context.close()

    def check(self) -> None:
        """Assert that the page logged no error and that no request to the host failed."""
        assert self.console_errors == []
        assert self.failed_requests == []

    def load_workflow(self, workflow: Mapping[str, Any] | Path, name: str = "test") -> None:
        """Open a workflow (its JSON or its file) as the canvas' menu does."""
        if isinstance(workflow, Path):
            workflow = json.loads(workflow.read_text())
        self.page.evaluate("async ([graph, name]) => app.loadGraphData(graph, true, true, name)", [workflow, name])
        self.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def drop_file(self, path: Path) -> None:
        """Drop a file on the canvas, at a position where no node should be."""
        content = base64.b64encode(path.read_bytes()).decode()
        self.page.evaluate(DROP_FILE, [content, path.name, mimetypes.guess_type(path.name)[0]])

    def count_blobs(self) -> None:
        """Keep `window.liveBlobs`, the object URLs that are made from here on and not revoked."""
        self.page.evaluate(COUNT_BLOBS)

    def graph_to_prompt(self) -> dict[str, Any]:
        """The open graph in API format, as the Run button would queue it."""
        return self.page.evaluate("async () => (await app.graphToPrompt()).output")

    def graph(self) -> dict[str, Any]:
        """The open graph in the format workflows are saved in."""
        return self.page.evaluate("() => app.rootGraph.serialize()")

    def widgets(self, node_id: int) -> dict[str, Any]:
        """A node's widget values by name."""
        read = "(id) => app.rootGraph.getNodeById(id).widgets.map((widget) => [widget.name, widget.value])"
        return dict(self.page.evaluate(read, node_id))

    def set_setting(self, setting: str, value: Any) -> None:
        """Change a setting of the frontend; it is kept on the host."""
        change = "([id, value]) => app.extensionManager.setting.set(id, value)"
        self.page.evaluate(change, [setting, value])

    def use_nodes_2(self, enabled: bool) -> None:
        """Choose the renderer: Nodes 2.0, or the classic canvas."""
        self.set_setting(NODES_2, enabled)
        self.page.wait_for_function("(enabled) => LiteGraph.vueNodesMode === enabled", arg=enabled)

    def run(self) -> None:
        """Queue the open graph once."""
        self.page.evaluate("() => app.queuePrompt(0, 1)")

    def evaluate(self, script: str, argument: Any = None) -> Any:
        """Run JavaScript in the page."""
        return self.page.evaluate(script, argument)

    def screenshot(self, path: Path) -> Path:
        """Save what the window shows."""
        self.page.screenshot(path=str(path))
        return Path(path)

    def describe(self) -> str:
        """What the page says in words and what was noted of it, for the report of a failed test."""
        try:
            words = " | ".join(self.page.inner_text("body", timeout=5_000).split("\n"))
        except Error as error:  # a page that is gone or hangs
            words = str(error)
        return f"{words[:DESCRIBED]}\nerrors: {self.console_errors}\nrequests: {self.failed_requests}"

    def _is_ours(self, url: str) -> bool:
        return url.startswith((self.host.url, "blob:", "data:"))

    def _refuse_strangers(self, route: Route) -> None:
        if self._is_ours(route.request.url):
            route.continue_()
        else:
            route.abort()

    def _note_console(self, message: ConsoleMessage) -> None:
        if message.type != "error" or message.text.startswith("Failed to load resource"):
            return  # a failed request is noted as such, if it is one to the host
        if START_MESSAGE in message.text and self._start_messages_due:
            self._start_messages_due -= 1
            return
        text = f"{message.text} ({message.location.get('url', '')})"
        if not any(question in text for question in MODEL_QUESTIONS):
            self.console_errors.append(text)

    def _note_response(self, response: Response) -> None:
        optional = any(part in response.url for part in OPTIONAL_FILES)
        if response.status >= 400 and self._is_ours(response.url) and not optional:
            self.failed_requests.append(f"{response.status} {response.request.method} {response.url}")

    def _note_failure(self, request: Request) -> None:
        aborted = (request.failure or "") == "net::ERR_ABORTED"  # the page itself gave up on it, as on a reload
        if self._is_ours(request.url) and not aborted:
            self.failed_requests.append(f"{request.failure} {request.method} {request.url}")
