"""Live previews in the real frontend, in both renderers: a picture on the node that moves, and nothing else changes."""

from __future__ import annotations

import time
from itertools import count
from typing import Any

import pytest
from playwright.sync_api import Locator

from tests.support.browser import Canvas
from tests.support.workflow_files import TITLES, api_workflow, canvas_workflow

PREVIEW = 'img[alt="Live preview"], img[alt="Live sampling preview"]'  # ours on the classic canvas, the frontend's own
SEEDS = count(time.time_ns() % 2**31)  # another one each time, or the result comes from the cache

# Of a node in the graph that is open: types of its widgets that show pictures.
PICTURE_WIDGETS = """
(id) => app.canvas.graph.getNodeById(id).widgets.filter(({name}) => name.startsWith("$$")).map(({type}) => type)
"""
IS_IDLE = "async () => { const queue = await (await fetch('/queue')).json(); return !queue.queue_running.length }"


def stock_graph(kind: str) -> dict[str, Any]:
    """The text-to-video workflow with another sampler, as an API graph with numbers for ids; the sampler is 7."""
    graph = api_workflow(TITLES[0])
    given = {name: graph["sampler"]["inputs"][name] for name in ("model", "positive", "negative", "latent_image")}
    if kind == "KSampler":
        inputs = {**given, "seed": next(SEEDS), "steps": 12, "cfg": 3.0, "denoise": 1.0}
        graph["sampler"] = {"class_type": kind, "inputs": {**inputs, "sampler_name": "euler", "scheduler": "simple"}}
    elif kind == "SamplerCustomAdvanced":
        steps = {"model": given["model"], "steps": 12, "denoise": 1.0}
        conditioned = {name: given[name] for name in ("model", "positive", "negative")}
        graph |= {
            "noise": {"class_type": "RandomNoise", "inputs": {"noise_seed": next(SEEDS)}},
            "guider": {"class_type": "CFGGuider", "inputs": {**conditioned, "cfg": 3.0}},
            "rule": {"class_type": "CogVideoXSamplerSelect", "inputs": {"sampler": "ddim", "dynamic_cfg": "off"}},
            "sigmas": {"class_type": "CogVideoXScheduler", "inputs": steps},
        }
        links = {"noise": "noise", "guider": "guider", "sampler": "rule", "sigmas": "sigmas"}
        inputs = {name: [source, 0] for name, source in links.items()}
        graph["sampler"] = {"class_type": kind, "inputs": {**inputs, "latent_image": given["latent_image"]}}
    else:
        graph["sampler"]["inputs"] |= {"seed": next(SEEDS), "steps": 12}
    numbers = {name: str(number) for number, name in enumerate(graph, start=1)}
    for entry in graph.values():
        links = {name: value for name, value in entry["inputs"].items() if isinstance(value, list)}
        entry["inputs"] |= {name: [numbers[source], output] for name, (source, output) in links.items()}
        entry.setdefault("_meta", {"title": entry["class_type"]})
    return {numbers[name]: entry for name, entry in graph.items()}


SAMPLER = str(list(api_workflow(TITLES[0])).index("sampler") + 1)


def run(page: Canvas, kind: str = "CogVideoXSampler") -> Locator:
    """Open the graph, run it to its end, and give the preview on its sampler."""
    page.evaluate("(graph) => app.loadApiJson(graph, 'preview')", stock_graph(kind))
    page.run()
    page.page.locator(PREVIEW).first.wait_for(timeout=60_000)
    wait_until_idle(page)
    page.evaluate("(id) => app.canvas.centerOnNode(app.canvas.graph.getNodeById(id))", SAMPLER)
    return page.page.locator(PREVIEW)


def wait_until_idle(page: Canvas) -> None:
    deadline = time.monotonic() + 60
    while not page.evaluate(IS_IDLE):
        assert time.monotonic() < deadline
        page.page.wait_for_timeout(100)


def moves(picture: Locator) -> bool:
    """Whether the picture looks different within the two and a half seconds that its clip takes."""
    first = picture.screenshot()
    for _ in range(12):
        picture.page.wait_for_timeout(250)
        if picture.screenshot() != first:
            return True
    return False


@pytest.mark.parametrize("kind", ["CogVideoXSampler", "KSampler", "SamplerCustomAdvanced"])
def test_one_preview_moves_on_the_sampler(open_page: Canvas, kind: str) -> None:
    picture = run(open_page, kind)
    assert picture.count() == 1
    assert picture.evaluate("(image) => [image.naturalWidth, image.naturalHeight]") == [96, 96]
    assert moves(picture)
    if not open_page.evaluate("() => LiteGraph.vueNodesMode"):
        assert open_page.evaluate(PICTURE_WIDGETS, SAMPLER) == ["cogvideox.preview"]
        assert open_page.page.get_by_text("Step 12 of 12", exact=True).count() == 1
    open_page.check()


def test_a_preview_changes_neither_workflow_nor_prompt(open_page: Canvas) -> None:
    open_page.evaluate("(graph) => app.loadApiJson(graph, 'preview')", stock_graph("CogVideoXSampler"))
    before = contents(open_page)
    open_page.run()
    open_page.page.locator(PREVIEW).first.wait_for(timeout=60_000)
    wait_until_idle(open_page)
    assert contents(open_page) == before
    open_page.check()


def contents(page: Canvas) -> tuple[Any, ...]:
    """The prompt, and of the workflow its links and nodes, but for sizes and the seed, which ComfyUI draws again."""
    prompt, graph = page.graph_to_prompt(), page.graph()
    del prompt[SAMPLER]["inputs"]["seed"]
    for node in graph["nodes"]:
        del node["size"]
        if str(node["id"]) == SAMPLER:
            del node["widgets_values"][0]
            node.get("widgets_values_named", {}).pop("seed", None)  # newer frontends have them by name, too
    return prompt, graph["nodes"], graph["links"]


def test_the_classic_preview_is_part_of_the_canvas(shared_canvas: Canvas) -> None:
    """A wheel on it zooms, the middle button pans, Delete deletes nothing, and its blob goes with the node."""
    page = shared_canvas
    page.use_nodes_2(False)
    page.count_blobs()
    picture = run(page)
    box = picture.bounding_box()
    assert box is not None
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    scale = page.evaluate("() => app.canvas.ds.scale")
    page.page.mouse.move(*middle)
    page.page.mouse.wheel(0, -100)
    page.page.wait_for_function("(scale) => app.canvas.ds.scale > scale", arg=scale)
    left = page.evaluate("() => app.canvas.ds.offset[0]")
    page.page.mouse.down(button="middle")
    page.page.mouse.move(middle[0] + 40, middle[1] + 30, steps=5)
    page.page.mouse.up(button="middle")
    page.page.wait_for_function("(left) => app.canvas.ds.offset[0] > left + 10", arg=left)
    page.page.mouse.click(middle[0] + 40, middle[1] + 30)
    page.page.keyboard.press("Delete")
    page.page.wait_for_timeout(300)
    assert page.evaluate("(id) => Boolean(app.canvas.graph.getNodeById(id))", SAMPLER)
    source = picture.get_attribute("src")
    assert page.evaluate("(url) => liveBlobs.has(url)", source)
    page.evaluate("(id) => app.canvas.graph.remove(app.canvas.graph.getNodeById(id))", SAMPLER)
    assert not page.evaluate("(url) => liveBlobs.has(url)", source)
    assert picture.count() == 0
    page.check()


def test_the_preview_follows_a_change_of_renderer(shared_canvas: Canvas) -> None:
    page = shared_canvas
    page.use_nodes_2(False)
    run(page)
    page.use_nodes_2(True)
    for nodes_2 in (True, False):
        page.use_nodes_2(nodes_2)
        picture = page.page.locator(PREVIEW)
        picture.first.wait_for()
        assert picture.count() == 1 and moves(picture)
    page.check()


def test_the_preview_shows_inside_a_subgraph(open_page: Canvas) -> None:
    page = open_page
    page.evaluate("(graph) => app.loadApiJson(graph, 'preview')", stock_graph("CogVideoXSampler"))
    inner = page.evaluate(
        """(id) => {
          const graph = app.canvas.graph
          const { subgraph, node } = graph.convertToSubgraph(new Set([graph.getNodeById(id)]))
          app.canvas.openSubgraph(subgraph, node)
          return subgraph.nodes[0].id
        }""",
        SAMPLER,
    )
    page.run()
    page.page.locator(PREVIEW).first.wait_for(timeout=60_000)
    wait_until_idle(page)
    page.evaluate("(id) => app.canvas.centerOnNode(app.canvas.graph.getNodeById(id))", inner)
    picture = page.page.locator(PREVIEW)
    assert picture.count() == 1 and moves(picture)
    page.check()


def test_a_preview_comes_back_after_a_switch_of_tabs(open_page: Canvas) -> None:
    page = open_page
    run(page)
    page.load_workflow(canvas_workflow(TITLES[1]), "another")
    assert page.page.locator(PREVIEW).count() == 0
    assert moves(run(page))
    page.check()


def test_a_preview_moves_with_api_nodes_disabled(start_host: Any, open_canvas: Any) -> None:
    """ComfyUI's content security policy is strict then; it keeps the frontend from asking for models of its own."""
    page = open_canvas(start_host("--disable-api-nodes"))
    for nodes_2 in (False, True):
        page.use_nodes_2(nodes_2)
        assert moves(run(page))
    page.check()
