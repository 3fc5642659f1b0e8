"""Files of the canvas in the CogVideoX wrapper's node ids: read in every order their values come in, linked anew."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.foreign_graphs import (
    IMAGE_MODEL,
    LENGTH,
    SEED,
    STEPS,
    canvas_file,
    encode,
    image_to_video,
    loader,
    sampler,
    text_to_video,
    texts,
)
from tests.support.graphs import Graph, node
from tests.support.host import Host

Json = dict[str, Any]


@pytest.fixture
def carry(host: Host):
    """A file as the canvas gets it back, and the sentences."""

    def convert(workflow: Json) -> tuple[Json, list[str]]:
        answer = host.post("/cogvideox/foreign", workflow)
        assert_linked(answer["workflow"])
        return answer["workflow"], [one for one in answer["sentences"] if "is not among the files here" not in one]

    return convert


def saved(host: Host, graph: Graph, **options: Any) -> Json:
    return canvas_file(graph, host.object_info, **options)


def graphs(workflow: Json) -> list[Json]:
    return [workflow, *workflow.get("definitions", {}).get("subgraphs", [])]


def ends(link: Any) -> tuple[Any, ...]:
    """Number, origin, its output, target, its input."""
    if isinstance(link, dict):
        return tuple(link[key] for key in ("id", "origin_id", "origin_slot", "target_id", "target_slot"))
    return tuple(link[:5])


def assert_linked(workflow: Json) -> None:
    """Links and slots agree, and every number is there once."""
    numbers = [one["id"] for graph in graphs(workflow) for one in graph["nodes"]]
    assert len(set(numbers)) == len(numbers)
    for graph in graphs(workflow):
        nodes = {one["id"]: one for one in graph["nodes"]}
        links = [ends(link) for link in graph["links"]]
        assert len({link[0] for link in links}) == len(links)
        for number, origin, slot, target, target_slot in links:
            if origin in nodes:
                assert number in nodes[origin]["outputs"][slot]["links"]
            if target in nodes:
                assert nodes[target]["inputs"][target_slot]["link"] == number
        known = {link[0] for link in links}
        for one in nodes.values():
            for slot in one.get("inputs") or []:
                assert slot["link"] is None or slot["link"] in known
            for slot in one.get("outputs") or []:
                assert set(slot["links"] or []) <= known


def the(workflow: Json, kind: str) -> Json:
    (one,) = [each for graph in graphs(workflow) for each in graph["nodes"] if each["type"] == kind]
    return one


def set_values(workflow: Json, kind: str, values: Any) -> None:
    the(workflow, kind)["widgets_values"] = values


def origin_of(workflow: Json, one: Json, name: str) -> Json:
    (slot,) = [slot for slot in one["inputs"] if slot["name"] == name]
    (link,) = [ends(link) for link in workflow["links"] if ends(link)[0] == slot["link"]]
    return next(each for each in workflow["nodes"] if each["id"] == link[1])


@pytest.mark.parametrize("control", ["fixed", "randomize", "increment"])
def test_values_keep_their_places_and_the_seed_its_control(host: Host, carry, control: str) -> None:
    file = saved(host, text_to_video())
    set_values(file, "CogVideoSampler", [LENGTH, STEPS, 2.5, SEED, control, "CogVideoXDPMScheduler", 0.75])
    result, sentences = carry(file)
    assert sentences == []
    values = the(result, "CogVideoXSampler")["widgets_values"]
    assert values == [SEED, control, STEPS, 2.5, "dpm++ 2m sde", "off", 0.75]


def test_names_in_the_file_count_more_than_the_order(host: Host, carry) -> None:
    file = saved(host, text_to_video(), names=True)
    one = the(file, "CogVideoSampler")
    slots = [slot for slot in one["inputs"] if "widget" in slot]
    order = ["steps", "num_frames", "seed", "cfg", "scheduler", "denoise_strength"]
    named = {slot["name"]: slot for slot in slots}
    one["inputs"] = [slot for slot in one["inputs"] if "widget" not in slot] + [named[name] for name in order]
    for number, slot in enumerate(one["inputs"]):
        for link in file["links"]:
            if link[0] == slot["link"]:
                link[4] = number
    one["widgets_values"] = [STEPS, LENGTH, SEED, "fixed", 2.5, "CogVideoXDDIM", 1.0]
    result, _ = carry(file)
    assert the(result, "CogVideoXSampler")["widgets_values"] == [SEED, "fixed", STEPS, 2.5, "ddim", "off", 1.0]
    assert the(result, "CogVideoXEmptyLatent")["widgets_values"] == [96, 96, LENGTH, 1, False]


@pytest.mark.parametrize("values", [[False, 0.0], [False, 0, 1, 0, 1], [16, False], {"enable_tiling": False}])
def test_encoders_of_every_version_open(host: Host, carry, values: Any) -> None:
    file = saved(host, image_to_video())
    set_values(file, "CogVideoImageEncode", values)
    result, sentences = carry(file)
    assert sentences == []
    assert origin_of(result, the(result, "CogVideoXSampler"), "latent_image")["type"] == "CogVideoXImageToVideo"


def test_links_that_go_where_they_went_keep_their_numbers(host: Host, carry) -> None:
    file = saved(host, text_to_video())
    result, _ = carry(file)
    model = the(file, "CogVideoSampler")["inputs"][0]["link"]
    (now,) = [slot["link"] for slot in the(result, "CogVideoXSampler")["inputs"] if slot["name"] == "model"]
    assert now == model
    assert the(result, "CogVideoXSampler")["id"] == the(file, "CogVideoSampler")["id"]


def test_places_as_older_files_have_them(host: Host, carry) -> None:
    file = saved(host, text_to_video())
    for one in file["nodes"]:
        one["size"] = {"0": one["size"][0], "1": one["size"][1]}
    one = the(file, "CogVideoSampler")
    one["title"], one["color"] = "My sampler", "#223"
    result, _ = carry(file)
    now = the(result, "CogVideoXSampler")
    assert now["pos"] == one["pos"] and now["title"] == "My sampler" and now["color"] == "#223"


def virtual(
    file: Json, number: int, kind: str, name: str | None, links: tuple[int | None, list[int]], type_: str
) -> None:
    """A node that only the canvas has: a Reroute, or KJNodes' Set or Get."""
    into, out = links
    slot = {"name": "" if kind == "Reroute" else type_, "type": type_, "link": into}
    file["nodes"].append(
        {
            "id": number,
            "type": kind,
            "pos": [0, 100 * number],
            "size": [200, 40],
            "mode": 0,
            "inputs": [slot] if into else [],
            "outputs": [{"name": type_, "type": type_, "links": out}],
            "widgets_values": [name] if name else None,
        }
    )


def test_what_set_and_get_nodes_and_reroutes_hand_on_is_found(host: Host, carry) -> None:
    """The encoded image through a Reroute, the model through a Set and a Get node."""
    file = saved(host, image_to_video())
    one = the(file, "CogVideoSampler")
    slots = {slot["name"]: slot for slot in one["inputs"]}
    links = {link[0]: link for link in file["links"]}
    number = file["last_link_id"]
    image, model = links[slots["image_cond_latents"]["link"]], links[slots["model"]["link"]]
    virtual(file, 101, "Reroute", None, (image[0], [number + 1]), "LATENT")
    virtual(file, 102, "SetNode", "Model", (model[0], []), "COGVIDEOMODEL")
    virtual(file, 103, "GetNode", "Model", (None, [number + 2]), "COGVIDEOMODEL")
    file["links"] += [
        [number + 1, 101, 0, one["id"], image[4], "LATENT"],
        [number + 2, 103, 0, one["id"], model[4], "COGVIDEOMODEL"],
    ]
    slots["image_cond_latents"]["link"], slots["model"]["link"] = number + 1, number + 2
    image[3:5], model[3:5] = [101, 0], [102, 0]
    result, sentences = carry(file)
    assert sentences == []
    assert origin_of(result, the(result, "CogVideoXSampler"), "positive")["type"] == "CogVideoXImageToVideo"
    assert origin_of(result, the(result, "CogVideoXSampler"), "model")["type"] == "GetNode"
    assert the(result, "GetNode")["outputs"][0]["type"] == the(result, "SetNode")["inputs"][0]["type"] == "MODEL"


def test_a_subgraph_is_carried_over_and_its_frame_with_it(host: Host, carry) -> None:
    """Everything but the loader of the model in a subgraph."""
    inner = saved(host, text_to_video())
    inside = [one for one in inner["nodes"] if one["type"] != "DownloadAndLoadCogVideoModel"]
    model = the(inner, "DownloadAndLoadCogVideoModel")
    keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    links = [dict(zip(keys, link, strict=True)) for link in inner["links"]]
    for link in links:
        if link["origin_id"] == model["id"]:
            link["origin_id"] = -10
    frame = [
        {
            "id": name,
            "name": name,
            "type": kind,
            "linkIds": [link["id"] for link in links if (link["origin_id"], link["origin_slot"]) == (-10, slot)],
        }
        for slot, (name, kind) in enumerate([("model", "COGVIDEOMODEL"), ("vae", "VAE")])
    ]
    part = {
        "id": "a-subgraph",
        "name": "All",
        "nodes": inside,
        "links": links,
        "inputs": frame,
        "outputs": [],
        "groups": [],
    }
    outer = saved(host, {"model": loader(IMAGE_MODEL)})
    number = 500
    holder = {"id": number, "type": "a-subgraph", "pos": [900, 0], "size": [200, 80], "mode": 0, "outputs": []}
    holder["inputs"] = [
        {"name": "model", "type": "COGVIDEOMODEL", "link": 1},
        {"name": "vae", "type": "VAE", "link": 2},
    ]
    outer["nodes"][0]["id"] = model["id"]
    outer["nodes"].append(holder)
    outer["links"] = [
        [number_, model["id"], slot, number, slot, kind]
        for number_, slot, kind in ((901, 0, "COGVIDEOMODEL"), (902, 1, "VAE"))
    ]
    holder["inputs"][0]["link"], holder["inputs"][1]["link"] = 901, 902
    for slot, link in ((0, 901), (1, 902)):
        outer["nodes"][0]["outputs"][slot]["links"] = [link]
    outer |= {"last_node_id": number, "last_link_id": 902, "definitions": {"subgraphs": [part]}}
    result, sentences = carry(outer)
    assert sentences == []
    (changed,) = result["definitions"]["subgraphs"]
    assert [slot["type"] for slot in changed["inputs"]] == ["MODEL", "VAE"]
    known = {link["id"]: link for link in changed["links"]}
    for slot in changed["inputs"]:
        assert slot["linkIds"] and all(known[number]["origin_id"] == -10 for number in slot["linkIds"])
    wanted = {"CogVideoXSampler", "CogVideoXEmptyLatent", "CogVideoXVAEDecode"}
    assert wanted <= {one["type"] for one in changed["nodes"]}
    assert {one["type"] for one in result["nodes"]} == {"CogVideoXLoadModel", "CogVideoXLoadVAE", "a-subgraph"}


def test_settings_from_outside_a_subgraph_are_named(host: Host, carry) -> None:
    file = saved(host, text_to_video())
    one = the(file, "DownloadAndLoadCogVideoModel")
    (slot,) = [number for number, slot in enumerate(one["inputs"]) if slot["name"] == "lora"]
    keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    links = [dict(zip(keys, link, strict=True)) for link in file["links"]]
    number = file["last_link_id"] + 1
    links.append(dict(zip(keys, (number, -10, 0, one["id"], slot, "COGLORA"), strict=True)))
    one["inputs"][slot]["link"] = number
    frame = [{"id": "lora", "name": "lora", "type": "COGLORA", "linkIds": [number]}]
    part = {"id": "a-subgraph", "nodes": file["nodes"], "links": links, "inputs": frame, "outputs": []}
    outer = {"nodes": [], "links": [], "version": 0.4, "definitions": {"subgraphs": [part]}}
    _, sentences = carry(outer)
    told = "lora: what comes in from outside this graph is not known here"
    assert sentences == [f"DownloadAndLoadCogVideoModel ({one['id']}): {told}"]


def test_what_was_muted_does_nothing_now(host: Host, carry) -> None:
    graph = text_to_video(teacache_args=["cache", 0], fastercache=["faster", 0])
    graph |= {"cache": node("CogVideoXTeaCache", rel_l1_thresh=0.2), "faster": node("CogVideoXFasterCache")}
    file = saved(host, graph)
    the(file, "CogVideoXFasterCache")["mode"] = the(file, "CogVideoXTeaCache")["mode"] = 2
    result, sentences = carry(file)
    assert sentences == [], "what did nothing is not missed"
    assert not [one for one in result["nodes"] if one["type"] in ("CogVideoXSpeed", "CogVideoXTeaCache")]
    file = saved(host, graph)
    the(file, "CogVideoSampler")["mode"] = 4
    result, _ = carry(file)
    assert the(result, "CogVideoXSampler")["mode"] == 4 and the(result, "CogVideoXEmptyLatent")["mode"] == 0


def test_a_workflow_without_the_wrapper_comes_back_as_it_was(host: Host, carry) -> None:
    file = saved(host, {"first": node("LoadImage", image="example.png")})
    assert carry(file) == (file, [])


def test_a_node_that_has_no_counterpart_stays_muted_with_its_links(host: Host, carry) -> None:
    graph = {
        "model": loader(IMAGE_MODEL),
        **texts(),
        "first": node("LoadImage", image="example.png"),
        "image": encode("first"),
    }
    graph["tora"] = node("DownloadAndLoadToraModel", model="kijai/CogVideoX-5b-Tora")
    graph["flow"] = node("ToraEncodeOpticalFlow", vae=["model", 1], tora_model=["tora", 0], optical_flow=["first", 0])
    graph["sampler"] = sampler(image_cond_latents=["image", 0], tora_trajectory=["flow", 0])
    result, sentences = carry(saved(host, graph))
    assert len(sentences) == 2 and all("there is no Tora in this pack" in one for one in sentences)
    flow = the(result, "ToraEncodeOpticalFlow")
    assert flow["mode"] == the(result, "DownloadAndLoadToraModel")["mode"] == 2
    assert origin_of(result, flow, "tora_model")["type"] == "DownloadAndLoadToraModel"
    assert flow["outputs"][0]["links"] == []
