"""Workflows in the CogVideoX wrapper's node ids on the real canvas, in both renderers."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cogvideox_core.demo import DEMO_MODELS
from tests.support.browser import Canvas
from tests.support.foreign_graphs import (
    CFG,
    HEIGHT,
    IMAGE_FOLDER,
    LENGTH,
    PROMPT,
    SEED,
    STEPS,
    TEXT_FOLDER,
    WIDTH,
    canvas_file,
    image_to_video,
    rules,
    stub_of_the_wrapper,
    text_to_video,
)
from tests.support.graphs import Graph, node
from tests.support.host import Host

DISABLED = "Comfy.Extension.Disabled"
IS_LISTED = "([setting, name]) => app.extensionManager.setting.get(setting).includes(name)"
TOASTS = "[...document.querySelectorAll('.p-toast-message')].map((one) => one.innerText)"
MISSING = (
    "app.rootGraph.nodes.filter((node) => !(node.type in LiteGraph.registered_node_types)).map((node) => node.type)"
)


@pytest.fixture(scope="module", autouse=True)
def models(host: Host) -> None:
    host.add_model("diffusers", DEMO_MODELS["text-to-video"], TEXT_FOLDER)
    host.add_model("diffusers", DEMO_MODELS["image-to-video"], IMAGE_FOLDER)


def opened(page: Canvas, graph: Graph, *, names: bool = False) -> dict[str, dict[str, Any]]:
    """The graph as a file, opened; the prompt that the canvas makes of it."""
    close_toasts(page)
    page.load_workflow(canvas_file(graph, page.host.object_info, names=names), "foreign")
    return page.graph_to_prompt()


def close_toasts(page: Canvas) -> None:
    page.evaluate("() => document.querySelectorAll('.p-toast-close-button').forEach((button) => button.click())")
    page.page.wait_for_function(f"() => !{TOASTS}.length")


def toasts(page: Canvas) -> list[str]:
    page.page.wait_for_function(f"() => {TOASTS}.some((text) => text.includes('Carried over'))")
    return page.evaluate(f"() => {TOASTS}")


def the(prompt: dict[str, dict[str, Any]], kind: str) -> dict[str, Any]:
    (one,) = [each["inputs"] for each in prompt.values() if each["class_type"] == kind]
    return one


@pytest.mark.parametrize("names", [False, True], ids=["older file", "newer file"])
def test_text_to_video_opens_with_our_nodes(open_page: Canvas, names: bool) -> None:
    prompt = opened(open_page, text_to_video(), names=names)
    assert open_page.evaluate(f"() => {MISSING}") == []
    assert not {each["class_type"] for each in prompt.values()} & set(rules("table").FOREIGN)
    assert the(prompt, "CogVideoXLoadModel") == {"model_name": TEXT_FOLDER, "weight_dtype": "fp32"}
    latent = the(prompt, "CogVideoXEmptyLatent")
    assert (latent["width"], latent["height"], latent["length"]) == (WIDTH, HEIGHT, LENGTH)
    sampled = the(prompt, "CogVideoXSampler")
    assert (sampled["seed"], sampled["steps"], sampled["cfg"]) == (SEED, STEPS, CFG)
    assert (sampled["sampler"], sampled["dynamic_cfg"], sampled["denoise"]) == ("ddim", "off", 1)
    assert prompt[sampled["latent_image"][0]]["class_type"] == "CogVideoXEmptyLatent"
    assert prompt[sampled["positive"][0]]["inputs"]["text"] == PROMPT
    assert the(prompt, "CogVideoXVAEDecode")["tiling"] == "auto"
    assert any("Its nodes are CogVideoX nodes of this pack now." in text for text in toasts(open_page))
    open_page.check()


def test_the_canvas_makes_the_prompt_that_the_api_makes(open_page: Canvas) -> None:
    """One rewriting for both: the opened file asks for what the prompt in the wrapper's ids becomes."""

    def find(component: str, names: Any) -> str | None:
        return next(iter(names))

    for graph in (text_to_video(), image_to_video(), text_to_video(scheduler="Euler A")):
        prompt = opened(open_page, graph)
        wanted, _ = rules("prompt").convert_prompt(graph, find, lambda kind: rules("drawing").Shape((), (), ""))
        assert shape(prompt) == shape(wanted)
        for kind in ("CogVideoXLoadModel", "CogVideoXImageToVideo", "CogVideoXSampler", "SamplerCustom"):
            if any(each["class_type"] == kind for each in wanted.values()):
                theirs, canvas = the(wanted, kind), the(prompt, kind)
                same = {name: value for name, value in theirs.items() if not isinstance(value, list)}
                assert {name: canvas[name] for name in same} == same
    open_page.check()


def shape(prompt: dict[str, dict[str, Any]]) -> list[tuple[str, ...]]:
    """Types of nodes with what is linked to their inputs."""
    return sorted(
        (
            each["class_type"],
            *(
                f"{name}={prompt[value[0]]['class_type']}.{value[1]}"
                for name, value in sorted(each["inputs"].items())
                if isinstance(value, list)
            ),
        )
        for each in prompt.values()
    )


def test_what_is_not_carried_over_is_named(open_page: Canvas) -> None:
    graph = text_to_video(fastercache=["cache", 0], controlnet=["control", 0])
    graph["cache"] = node("CogVideoXFasterCache")
    graph["net"] = node("DownloadAndLoadCogVideoControlNet", model="TheDenk/cogvideox-2b-controlnet-hed-v1")
    graph["control"] = node("CogVideoControlNet", controlnet=["net", 0], images=["picture", 0])
    graph["picture"] = node("LoadImage", image="example.png")
    prompt = opened(open_page, graph)
    (notice,) = [text for text in toasts(open_page) if "except" in text]
    for name in ("CogVideoXFasterCache", "DownloadAndLoadCogVideoControlNet", "CogVideoControlNet"):
        assert name in notice
    assert not {each["class_type"] for each in prompt.values()} & set(rules("table").FOREIGN)
    muted = open_page.evaluate("() => app.rootGraph.nodes.filter((node) => node.mode === 2).map((node) => node.type)")
    assert set(muted) == {"CogVideoXFasterCache", "DownloadAndLoadCogVideoControlNet", "CogVideoControlNet"}
    open_page.check()


def test_nothing_stands_on_another(open_page: Canvas) -> None:
    opened(open_page, image_to_video())
    boxes = open_page.evaluate(
        "() => app.rootGraph.nodes.map((node) => [node.pos[0], node.pos[1] - 30, node.pos[0] + node.size[0], "
        "node.pos[1] + node.size[1]])"
    )
    for number, one in enumerate(boxes):
        for other in boxes[number + 1 :]:
            apart = one[0] >= other[2] or other[0] >= one[2] or one[1] >= other[3] or other[1] >= one[3]
            assert apart, (one, other)


@pytest.mark.parametrize("make", [text_to_video, image_to_video])
def test_an_opened_workflow_runs_to_a_video(open_page: Canvas, host: Host, make: Callable[..., Graph]) -> None:
    prefix = f"foreign-{time.time_ns()}"
    graph = make(seed=time.time_ns() % 2**32)
    graph["video"]["inputs"]["filename_prefix"] = prefix
    opened(open_page, graph)
    open_page.run()
    deadline = time.monotonic() + 240
    while not list(host.output_path().glob(f"{prefix}*.mp4")):
        assert time.monotonic() < deadline, host.log_text()[-2000:]
        time.sleep(0.2)
    open_page.check()


def test_a_saved_workflow_opens_as_it_was_carried_over(open_page: Canvas) -> None:
    """Opened, saved and opened again, there is nothing left to carry over; what was muted is not named again."""
    graph = image_to_video(fastercache=["cache", 0]) | {"cache": node("CogVideoXFasterCache")}
    first = opened(open_page, graph)
    toasts(open_page)
    close_toasts(open_page)
    open_page.load_workflow(open_page.graph(), "again")
    assert open_page.graph_to_prompt() == first
    assert not [text for text in open_page.evaluate(f"() => {TOASTS}") if "Carried over" in text]


def test_nothing_is_done_while_the_wrapper_is_there(
    start_host: Callable[..., Host], open_canvas: Callable[[Host], Canvas], tmp_path: Path
) -> None:
    """Its nodes are drawn where they are installed; those that are not are ComfyUI's to name."""
    page = open_canvas(start_host(extra_packs=[stub_of_the_wrapper(tmp_path)]))
    file = canvas_file(text_to_video(), page.host.object_info)
    page.load_workflow(file, "foreign")
    assert page.evaluate("() => app.rootGraph.nodes.map((node) => node.type)") == [one["type"] for one in file["nodes"]]
    page.page.get_by_role("button", name="View details").click()
    page.page.get_by_text("CogVideoSampler").first.wait_for()
    assert page.page.get_by_role("button", name="Replace All").count() == 0
    assert page.evaluate(f"() => {TOASTS}") == []
    page.check()


def test_comfyui_replaces_nodes_where_the_extension_is_off(
    start_host: Callable[..., Host], open_canvas: Callable[[Host], Canvas]
) -> None:
    """What is left for the list of errors: single nodes, with the links and values that both have.

    The extension was switched off under its former name: by our script at first, by the frontend after a reload.
    """
    page = open_canvas(start_host(settings={DISABLED: ["CogVideoX.Foreign"]}))
    for nodes_2 in (False, True):
        page.use_nodes_2(nodes_2)
        page.page.wait_for_function(IS_LISTED, arg=[DISABLED, "cogvideox.foreign"])
        if nodes_2:
            page.open()
        page.load_workflow(canvas_file(text_to_video(), page.host.object_info), "foreign")
        assert "CogVideoSampler" in page.evaluate(f"() => {MISSING}")
        page.page.get_by_role("button", name="View details").click()
        page.page.get_by_role("button", name="Replace All").click()
        page.page.wait_for_function(f"() => {MISSING}.length === 0")
        prompt = page.graph_to_prompt()
        sampled = the(prompt, "CogVideoXSampler")
        assert (sampled["seed"], sampled["steps"], sampled["cfg"]) == (SEED, STEPS, CFG)
        assert prompt[sampled["positive"][0]]["inputs"]["text"] == PROMPT
        assert prompt[sampled["model"][0]]["class_type"] == "CogVideoXLoadModel"
        assert the(prompt, "CogVideoXVAEDecode")["samples"] == [
            next(name for name, one in prompt.items() if one["class_type"] == "CogVideoXSampler"),
            0,
        ]
    page.check()


def test_while_the_server_does_not_answer_workflows_open_unchanged(
    host: Host, open_canvas: Callable[[Host], Canvas]
) -> None:
    """It is said once, and asked again with the next workflow."""
    page = open_canvas(host)
    file = canvas_file(text_to_video(), host.object_info)
    page.page.route("**/cogvideox/foreign", lambda route: route.fulfill(status=503, body="closed"))
    said = "Workflows of the CogVideoX wrapper open unchanged"
    for _ in range(2):
        page.load_workflow(file, "foreign")
        page.page.wait_for_function(f"(said) => {TOASTS}.some((text) => text.includes(said))", arg=said)
        assert "CogVideoSampler" in page.evaluate(f"() => {MISSING}")
    shown = [text for text in page.evaluate(f"() => {TOASTS}") if said in text]
    assert len(shown) == 1 and "(503 Service Unavailable)" in shown[0]
    page.page.unroute("**/cogvideox/foreign")
    page.load_workflow(file, "foreign")
    assert any("Carried over" in text for text in toasts(page))
    assert page.evaluate(f"() => {MISSING}") == []
