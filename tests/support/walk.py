"""A newcomer's path: from an empty canvas to a video that was watched, compared and saved, and back from its file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.support.browser import EMPTY, Canvas
from tests.support.host import PACK_NAME
from tests.support.player_page import PlayerPage
from tests.support.workflow_files import canvas_workflow

TEMPLATE = "Text to Video"
SCRUB_TO = 0.7  # of the scrub bar


class Walk:
    """The steps of the path on one page, in their order; `look` is called with each one's name once it is done."""

    def __init__(self, canvas: Canvas, look: Callable[[str], None] = lambda name: None):
        self.canvas = canvas
        self.page = canvas.page
        self.player = PlayerPage(canvas)
        self.look = look
        self.file = Path()

    def open_template(self) -> None:
        """Templates, the pack, its card, with nothing of the frontend's own over the workflow."""
        for part in ("Comfy.Minimap.Visible", "Comfy.RightSidePanel.IsOpen"):
            self.canvas.set_setting(part, False)
        self.canvas.load_workflow(EMPTY, "empty")
        self.look("empty")
        self.canvas.evaluate("() => app.extensionManager.command.execute('Comfy.BrowseTemplates')")
        self.page.get_by_text(PACK_NAME, exact=True).click()
        card = self.page.get_by_test_id(f"template-workflow-{TEMPLATE}")
        card.locator("img").first.wait_for()
        self.page.wait_for_load_state("networkidle")
        self.look("templates")
        card.click()
        count = len(canvas_workflow(TEMPLATE)["nodes"])
        self.page.wait_for_function("(count) => app.rootGraph.nodes.length === count", arg=count)
        self.player.root.wait_for()
        self.look("opened")

    def run(self) -> None:
        """The Run button; the preview until the video is there."""
        self.player.watch_live()
        self.page.get_by_test_id("queue-button").click()
        self.page.wait_for_function("() => window.live.pictures.size > 2", timeout=120_000)
        self.look("running")
        self.player.wait_for_video()
        self.player.pause()
        self.look("video")

    def scrub(self) -> None:
        """A drag along the scrub bar."""
        self.page.mouse.move(*self.player.scrub_position(0.1))
        self.page.mouse.down()
        self.page.mouse.move(*self.player.scrub_position(SCRUB_TO), steps=10)
        self.page.mouse.up()
        self.player.still()
        self.look("scrubbed")

    def compare(self) -> None:
        """Run once more, with another seed, and lay the first result over the second."""
        before = self.player.source()
        self.page.get_by_test_id("queue-button").click()
        self.player.wait_for_video(before)
        self.player.button("Compare with result 1").click()
        self.player.pause()
        self.page.mouse.click(*self.player.scrub_position(SCRUB_TO))
        self.player.still()
        self.look("compared")

    def save(self, folder: Path) -> None:
        """The Save button."""
        with self.page.expect_download() as saving:
            self.player.root.get_by_role("link", name="Download the video").click()
        self.file = folder / saving.value.suggested_filename
        saving.value.save_as(self.file)

    def drop(self) -> None:
        """The saved file on an empty canvas."""
        self.canvas.load_workflow(EMPTY, "dropped")
        self.canvas.drop_file(self.file)
        count = len(canvas_workflow(TEMPLATE)["nodes"])
        self.page.wait_for_function("(count) => app.rootGraph.nodes.length === count", arg=count)
        self.player.root.wait_for()
        self.look("dropped")
