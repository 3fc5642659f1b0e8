"""The canvas workflows in the real frontend, in both renderers."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from tests.support.browser import EMPTY, Canvas
from tests.support.host import PACK_NAME, Host
from tests.support.workflow_files import (
    FILE_TITLES,
    TITLE_BAR,
    TITLES,
    api_workflow,
    by_title,
    canvas_workflow,
    downloads,
    overlapping,
    thumbnail_file,
)

# Of every node: type, title, values of the widgets that are saved, and left, top, right and bottom as drawn.
READ_NODES = """
(titleBar) => app.rootGraph.nodes.map((node) => ({
  type: node.type,
  title: node.title,
  known: node.type in LiteGraph.registered_node_types,
  values: (node.widgets ?? []).filter((widget) => widget.serialize !== false).map((widget) => widget.value),
  box: [node.pos[0], node.pos[1] - titleBar, node.pos[0] + node.size[0], node.pos[1] + node.size[1]],
}))
"""

# Whether the picture in a part of the page has this width and height; a missing one has a stand-in of another size.
SHOWS = """
([part, width, height]) => {
  const image = document.querySelector(`[data-testid="${part}"] img`)
  return image?.naturalWidth === width && image.naturalHeight === height
}
"""

# Whether a video that is none of the old ones is on the page, with frames to show.
SHOWS_NEW_VIDEO = """
(old) => [...document.querySelectorAll('video[src]')].some((video) =>
  !old.includes(new URL(video.src).searchParams.get('filename')) && video.readyState >= 2 && video.videoWidth === 96)
"""

every_workflow = pytest.mark.parametrize("title", TITLES)


@every_workflow
def test_workflow_opens_as_saved(open_page: Canvas, title: str):
    saved = canvas_workflow(title)["nodes"]
    open_page.load_workflow(canvas_workflow(title), title)
    nodes: list[dict[str, Any]] = open_page.evaluate(READ_NODES, TITLE_BAR)
    assert [node["type"] for node in nodes if not node["known"]] == []
    assert [node["type"] for node in nodes] == [node["type"] for node in saved]
    for node, before in zip(nodes, saved, strict=True):
        assert node["values"] == before.get("widgets_values", []), node["title"]
    places = {node["title"]: node["box"] for node in nodes}
    assert overlapping(places) == []
    open_page.check()


@every_workflow
def test_canvas_and_api_workflow_are_the_same(open_page: Canvas, title: str):
    open_page.load_workflow(canvas_workflow(title), title)
    assert by_title(open_page.graph_to_prompt()) == by_title(api_workflow(title))


def test_template_opens_from_the_gallery(open_page: Canvas):
    """As a newcomer finds it: Templates, our pack, a card with its picture."""
    page, title = open_page.page, TITLES[0]
    open_page.load_workflow(EMPTY, "empty")
    open_page.evaluate("() => app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    page.get_by_text(PACK_NAME, exact=True).click()
    for name in TITLES:
        card = page.get_by_test_id(f"template-workflow-{name}")
        card.scroll_into_view_if_needed()
        card.locator("img").first.wait_for()
        with Image.open(thumbnail_file(name)) as picture:
            page.wait_for_function(SHOWS, arg=[f"template-workflow-{name}", *picture.size])
    page.get_by_test_id(f"template-workflow-{title}").click()
    count = len(canvas_workflow(title)["nodes"])
    page.wait_for_function("(count) => app.rootGraph.nodes.length === count", arg=count)
    open_page.check()


@pytest.mark.parametrize("title", FILE_TITLES)
def test_comfyui_offers_to_download_what_is_missing(open_page: Canvas, title: str):
    """Each button of the list leads to the file's address."""
    page, asked = open_page.page, []
    page.context.on("request", lambda request: asked.append(request.url))
    open_page.load_workflow(canvas_workflow(title), title)
    page.get_by_role("button", name="View details").click()
    buttons = page.get_by_test_id("missing-model-download")
    buttons.first.wait_for()
    assert buttons.count() == len(downloads(title))
    asked.clear()
    for button in buttons.all():
        with page.context.expect_page() as opened:
            button.click()
        opened.value.close()
    assert set(asked) >= {file.url for file in downloads(title)}
    open_page.check()


@pytest.mark.parametrize("arguments", [[], ["--disable-api-nodes"]], ids=["", "without API nodes"])
def test_nothing_is_called_in_an_old_way(
    start_host: Callable[..., Host], open_canvas: Callable[[Host], Canvas], arguments: list[str]
):
    """ComfyUI writes into its log when a pack's scripts use what is going to be taken away."""
    host = start_host(*arguments)
    page = open_canvas(host)
    for nodes_2 in (False, True):
        page.use_nodes_2(nodes_2)
        for title in TITLES:
            page.load_workflow(canvas_workflow(title), title)
    page.check()
    assert [line for line in host.log_text().splitlines() if "deprecat" in line.lower()] == []


def test_run_button_shows_the_video(open_page: Canvas, host: Host):
    workflow, page = canvas_workflow(TITLES[0]), open_page.page
    (sampler,) = [node for node in workflow["nodes"] if node["type"] == "CogVideoXSampler"]
    sampler["widgets_values"][0] = time.time_ns() % 2**32  # another seed, or the result comes from the cache
    open_page.load_workflow(workflow, "run")
    old = [path.name for path in host.output_path("CogVideoX").glob("*.mp4")]
    page.get_by_test_id("queue-button").click()
    page.wait_for_function(SHOWS_NEW_VIDEO, arg=old, timeout=120_000)
    open_page.check()
