"""Subgraphs in the real frontend, in both renderers: our blueprints, found by the node search and run to a video; and
our nodes inside a subgraph that a user makes.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import av
import pytest
from playwright.sync_api import Locator, Page, TimeoutError

from tests.support.browser import EMPTY, Canvas
from tests.support.host import Host
from tests.support.workflow_files import BLUEPRINT_NAMES, api_workflow, by_title, canvas_workflow

every_blueprint = pytest.mark.parametrize("name", BLUEPRINT_NAMES)
STEPS = 2

# A player behind the blueprint, and a grey picture before it if it takes one; its steps set as on the node.
COMPLETE = """
(steps) => {
  const graph = app.rootGraph
  const [blueprint] = graph.nodes
  const add = (type, x, y) => {
    const node = LiteGraph.createNode(type)
    graph.add(node)
    node.pos = [blueprint.pos[0] + x, blueprint.pos[1] + y]
    return node
  }
  const slot = (slots, name) => slots.findIndex((one) => one.name === name)
  const player = add("CogVideoXVideoPlayer", 480, 0)
  blueprint.connect(slot(blueprint.outputs, "video"), player, slot(player.inputs, "video"))
  const picture = slot(blueprint.inputs, "start_image")
  if (picture >= 0) {
    const drawn = add("EmptyImage", -320, 0)
    for (const side of ["width", "height"]) drawn.widgets.find((one) => one.name === side).value = 96
    drawn.widgets.find((one) => one.name === "color").value = 0x808080
    drawn.connect(0, blueprint, picture)
  }
  blueprint.widgets.find((one) => one.name === "steps").value = steps
  return String(blueprint.id)
}
"""

# What the server's preview of an inner node does on the page: the frontend's own event, with a picture of 24 x 24.
SHOW_PREVIEW = """
async (id) => {
  const canvas = new OffscreenCanvas(24, 24)
  canvas.getContext("2d").fillRect(0, 0, 24, 24)
  const detail = {blob: await canvas.convertToBlob(), nodeId: id, displayNodeId: id, parentNodeId: id, realNodeId: id,
    jobId: "0", promptId: "0"}
  window.comfyAPI.api.api.dispatchCustomEvent("b_preview_with_metadata", detail)
}
"""
SHOWS_PREVIEW = """
(id) => [...document.querySelectorAll(`[data-node-id="${id}"] img`)].some((image) => image.naturalWidth === 24)
"""


def open_search(page: Page) -> Locator:
    """The node search's field, after a double click on the empty canvas.

    A page that is busy between the two clicks takes them for two single ones, so they are made until they count.
    """
    field = page.get_by_role("search").get_by_role("combobox")
    for _ in range(10):
        page.mouse.dblclick(900, 800)
        with suppress(TimeoutError):
            field.wait_for(timeout=3_000)
            break
    return field


def add_from_search(canvas: Canvas, name: str) -> None:
    """As a user does: a double click on the empty canvas, words, a click on what is found, a click where it goes."""
    page = canvas.page
    canvas.load_workflow(EMPTY, "blueprint")
    open_search(page).fill(name)
    page.get_by_test_id("result-item").filter(has_text=name).first.click()
    page.wait_for_function("() => app.rootGraph.nodes.length === 1")
    page.mouse.click(700, 200)
    page.get_by_role("search").wait_for(state="hidden")


def inner_nodes(prompt: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The nodes of a prompt by class."""
    return {node["class_type"]: node for node in prompt.values()}


@every_blueprint
def test_blueprint_from_the_node_search_runs_to_a_video(open_page: Canvas, host: Host, name: str):
    add_from_search(open_page, name)
    open_page.evaluate(COMPLETE, STEPS)
    prompt = open_page.graph_to_prompt()
    nodes = inner_nodes(prompt)
    assert nodes["CogVideoXSampler"]["inputs"]["steps"] == STEPS, "what is set on the blueprint counts"
    nodes["CogVideoXSampler"]["inputs"]["seed"] = int.from_bytes(name.encode()[-4:], "big")
    (player,) = [key for key, node in prompt.items() if node["class_type"] == "CogVideoXVideoPlayer"]
    frames, fps = measure(*host.run(prompt).files(player))
    assert (frames, fps) == (17, 8)
    open_page.check()


def measure(path: Path) -> tuple[int, float]:
    """Frames of an mp4, and frames per second."""
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0)), float(container.streams.video[0].average_rate or 0)


@every_blueprint
def test_blueprint_shows_the_preview_of_the_sampler_inside(open_page: Canvas, name: str):
    add_from_search(open_page, name)
    (blueprint,) = open_page.graph()["nodes"]
    (exposed,) = blueprint["properties"]["previewExposures"]
    (subgraph,) = open_page.graph()["definitions"]["subgraphs"]
    (sampler,) = [node for node in subgraph["nodes"] if node["type"] == "CogVideoXSampler"]
    assert exposed["sourceNodeId"] == str(sampler["id"])
    if open_page.evaluate("() => LiteGraph.vueNodesMode"):
        open_page.evaluate(SHOW_PREVIEW, f"{blueprint['id']}:{sampler['id']}")
        open_page.page.wait_for_function(SHOWS_PREVIEW, arg=str(blueprint["id"]))
    open_page.check()


# All but the note and the player into a subgraph, entered and left again; how many nodes were seen inside.
CONVERT_AND_ENTER = """
async () => {
  const graph = app.rootGraph
  const inside = graph.nodes.filter((one) => !["MarkdownNote", "CogVideoXVideoPlayer"].includes(one.type))
  const {subgraph, node} = graph.convertToSubgraph(new Set(inside))
  const drawn = () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))
  await drawn()
  app.canvas.openSubgraph(subgraph, node)
  await drawn()
  const count = app.canvas.graph.nodes.length
  app.canvas.setGraph(graph)
  await drawn()
  return count
}
"""


def test_nodes_made_a_subgraph_run_the_same(open_page: Canvas):
    title = "Text to Video"
    open_page.load_workflow(canvas_workflow(title), title)
    prompt = api_workflow(title)
    assert open_page.evaluate(CONVERT_AND_ENTER) == len(prompt) - 1
    assert by_title(open_page.graph_to_prompt()) == by_title(prompt)
    open_page.check()
