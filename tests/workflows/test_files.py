"""The files of the example workflows and of the blueprints, read without ComfyUI."""

from __future__ import annotations

import re
from importlib import metadata
from typing import Any

import pytest
from PIL import Image

from cogvideox_core.models.variants import VARIANTS
from tests.support.workflow_files import (
    BLUEPRINT_FOLDER,
    BLUEPRINT_NAMES,
    DEMO_TITLES,
    FILE_TITLES,
    FOLDER,
    NOTE,
    OUR_PREFIX,
    TITLE_BAR,
    TITLES,
    api_file,
    api_workflow,
    blueprint,
    blueprint_file,
    by_title,
    canvas_workflow,
    downloads,
    is_link,
    note,
    overlapping,
    thumbnail_file,
)

PACKAGE = "cogvideox-nodes"
READABLE_KEY = re.compile(r"[a-z][a-z0-9_]+")
THUMBNAIL_LIMIT = 30_000  # bytes
TASKS = {
    "Text to Video": "text-to-video",
    "Image to Video": "image-to-video",
    "First and Last Frame": "image-to-video",
    "Video to Video": "text-to-video",
    "LoRA": "text-to-video",
    "INT8": "text-to-video",
    "Tiled Big Frame": "text-to-video",
    "Faster": "text-to-video",
}
INSIDE = {  # where the values of a blueprint belong: nodes and inputs of its workflow's API file, and the names outside
    "positive": {"text": "prompt"},
    "negative": {"text": "negative_prompt"},
    "latent": {"width": "width", "height": "height", "length": "length"},
    "sampler": {name: name for name in ("seed", "steps", "cfg", "sampler", "dynamic_cfg")},
    "video": {"fps": "fps"},
    "model": {"model_name": "model_name"},
    "vae": {"vae_name": "vae_name"},
    "text_encoder": {"text_encoder_name": "text_encoder_name"},
}
BASES = {"CogVideoX-Interpolation": "CogVideoX-5B-I2V"}  # models that were made from another one

every_workflow = pytest.mark.parametrize("title", TITLES)
every_demo_workflow = pytest.mark.parametrize("title", DEMO_TITLES)
every_file_workflow = pytest.mark.parametrize("title", FILE_TITLES)
every_blueprint = pytest.mark.parametrize("name", BLUEPRINT_NAMES)


def box(x: float, y: float, width: float, height: float) -> tuple[float, float, float, float]:
    """Left, top, right and bottom."""
    return x, y, x + width, y + height


def test_folder_holds_the_workflows_and_nothing_else():
    """ComfyUI takes every JSON file directly in it for a template."""
    assert {path.name for path in FOLDER.glob("*.json")} == {f"{title}.json" for title in TITLES}
    assert set(FOLDER.glob("*.jpg")) == {thumbnail_file(title) for title in TITLES}
    assert set((FOLDER / "api").iterdir()) == {api_file(title) for title in TITLES}
    assert set(BLUEPRINT_FOLDER.iterdir()) == {blueprint_file(name) for name in BLUEPRINT_NAMES}


@every_workflow
def test_thumbnail_is_a_small_picture(title: str):
    assert thumbnail_file(title).stat().st_size <= THUMBNAIL_LIMIT
    with Image.open(thumbnail_file(title)) as picture:
        assert picture.format == "JPEG"
        assert min(picture.size) >= 256


@every_workflow
def test_api_file_reads_well(title: str):
    prompt = api_workflow(title)
    assert [key for key in prompt if not READABLE_KEY.fullmatch(key)] == []
    assert {"model", "vae", "text_encoder", "positive", "negative", "latent", "sampler", "frames", "video"} <= set(
        prompt
    )
    assert len(by_title(prompt)) == len(prompt)
    assert prompt["video"]["inputs"]["filename_prefix"].startswith("CogVideoX/")
    links = [value[0] for node in prompt.values() for value in node["inputs"].values() if is_link(value)]
    assert set(links) <= set(prompt)


@every_demo_workflow
def test_workflow_needs_no_file_of_the_user(title: str):
    prompt = api_workflow(title)
    assert {node["class_type"] for node in prompt.values()} & {"LoadImage", "LoadVideo"} == set()
    assert prompt["model"]["inputs"]["model_name"] == f"demo/{TASKS[title]}"
    assert prompt["vae"]["inputs"]["vae_name"] == prompt["text_encoder"]["inputs"]["text_encoder_name"] == "demo"


@every_workflow
def test_every_workflow_writes_a_file_of_its_own_name(title: str):
    prefixes = [api_workflow(other)["video"]["inputs"]["filename_prefix"] for other in TITLES]
    assert prefixes.count(api_workflow(title)["video"]["inputs"]["filename_prefix"]) == 1


def origin_faults(nodes: list[dict[str, Any]]) -> list[str]:
    """Which nodes do not say where they come from: by these properties a manager finds and installs a missing pack."""
    faults = []
    for node in nodes:
        ours, properties = node["type"].startswith(OUR_PREFIX), node["properties"]
        wanted = {"Node name for S&R": node["type"], "cnr_id": PACKAGE if ours else "comfy-core"}
        if ours:
            wanted["ver"] = metadata.version(PACKAGE)
        if "ver" not in properties or {name: properties.get(name) for name in wanted} != wanted:
            faults.append(f"{node['type']}: {properties}")
    return faults


@every_workflow
def test_canvas_file_says_where_its_nodes_come_from(title: str):
    assert origin_faults([node for node in canvas_workflow(title)["nodes"] if node["type"] != NOTE]) == []


@every_workflow
def test_note_says_what_the_workflow_does(title: str):
    first, *_ = note(title).split("\n\n")
    assert len(first) > 100
    assert [part for part in re.findall(r"\[[^]]*\]\(([^)]*)\)", note(title)) if not part.startswith("https://")] == []


@every_workflow
def test_nodes_stand_apart_and_inside_their_group(title: str):
    workflow = canvas_workflow(title)
    groups = {group["title"]: box(*group["bounding"]) for group in workflow["groups"]}
    nodes = {}
    for node in workflow["nodes"]:
        (x, y), (width, height) = node["pos"], node["size"]
        nodes[node.get("title", node["type"])] = box(x, y - TITLE_BAR, width, height + TITLE_BAR)
    assert overlapping(groups) == []
    assert overlapping(nodes) == []
    for name, (left, top, right, bottom) in nodes.items():
        inside = [g for g in groups.values() if g[0] <= left and g[1] <= top and right <= g[2] and bottom <= g[3]]
        touched = overlapping({name: (left, top, right, bottom), **groups})
        assert len(inside) == len(touched) == (name != "Read Me"), name


@every_file_workflow
def test_workflow_says_where_its_files_come_from_and_where_they_go(title: str):
    """ComfyUI offers to download what `properties.models` of a node names, if a widget of that node asks for it."""
    folders = {
        "CogVideoXLoadModel": "diffusion_models",
        "CogVideoXLoadLoRA": "loras",
        "CogVideoXLoadVAE": "vae",
        "CogVideoXLoadT5": "text_encoders",
    }
    offered = {}
    for node in canvas_workflow(title)["nodes"]:
        for model in node["properties"].get("models", ()):
            assert model["name"] in node["widgets_values"]
            assert model["directory"] == folders[node["type"]]
            offered[model["name"]] = model["url"]
    assert offered == {file.name: file.url for file in downloads(title)}
    assert len(offered) == len([node for node in api_workflow(title).values() if node["class_type"] in folders])
    for file in downloads(title):
        assert file.url.startswith("https://huggingface.co/")  # the frontend downloads from few places and few endings
        assert file.name.endswith(".safetensors")
        assert f"| [{file.name}]({file.url}) | {file.directory} | {file.gigabytes:g} |" in note(title)


@every_file_workflow
def test_workflow_for_files_has_the_settings_of_its_model(title: str):
    model = title.split()[-1]
    use = VARIANTS[BASES.get(model, model)].defaults
    prompt = api_workflow(title)
    sampler = prompt["sampler"]["inputs"]
    assert video_size(prompt) == (use.width, use.height, use.num_frames)
    assert (sampler["steps"], sampler["cfg"]) == (use.num_inference_steps, use.guidance_scale)
    assert (sampler["sampler"], sampler["dynamic_cfg"]) == ("dpm++ 2m sde", "published")
    assert use.use_dynamic_cfg
    assert prompt["video"]["inputs"]["fps"] == use.fps


def video_size(prompt: dict[str, Any]) -> tuple[int, int, int]:
    """Width, height and frames, which the drawn source says where there is one."""
    if "path" not in prompt:
        return tuple(prompt["latent"]["inputs"][name] for name in ("width", "height", "length"))
    path, background = prompt["path"]["inputs"], prompt["background"]["inputs"]
    assert (background["width"], background["height"]) == (path["width"], path["height"])
    return path["width"], path["height"], path["num_frames"]


@every_demo_workflow
def test_note_names_the_official_models_and_their_settings(title: str):
    text = note(title)
    assert "models/diffusers" in text
    variants = [variant for variant in VARIANTS.values() if variant.task == TASKS[title]]
    for variant in variants:
        (line,) = [line for line in text.splitlines() if f"(https://huggingface.co/{variant.source})" in line]
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        use = variant.defaults
        assert cells[1:4] == [f"{use.width}, {use.height}", str(use.num_frames), str(use.fps)]
        assert cells[4:] == (["dpm++ 2m sde", "published"] if use.use_dynamic_cfg else ["ddim", "off"])
        assert f"set {use.num_inference_steps} **steps**, {use.guidance_scale:g} **cfg**" in text
    others = {variant.source for variant in VARIANTS.values()} - {variant.source for variant in variants}
    assert [source for source in others if f"{source})" in text] == []


@every_blueprint
def test_blueprint_is_one_node_that_brings_its_subgraph(name: str):
    drawn = blueprint(name)
    (node,), (subgraph,) = drawn["nodes"], drawn["definitions"]["subgraphs"]
    assert node["type"] == subgraph["id"]
    assert node["title"] == subgraph["name"] == name
    assert (node["properties"]["cnr_id"], node["properties"]["ver"]) == (PACKAGE, metadata.version(PACKAGE))
    assert subgraph["category"] == "CogVideoX"
    assert len(drawn["extra"]["BlueprintDescription"]) > 60
    assert drawn["extra"]["BlueprintSearchAliases"]
    assert origin_faults(subgraph["nodes"]) == []
    assert [slot["name"] for slot in node["outputs"]] == ["video", "frames"]
    names = [slot["name"] for slot in node["inputs"]]
    assert len(set(names)) == len(names)
    shown = [slot["name"] for slot in node["inputs"] if slot.get("widget")]
    assert set(names) - set(shown) <= {"start_image", "end_image"}
    values = dict(zip(shown, node["widgets_values"], strict=True))
    inside = api_workflow(name.removesuffix(" (CogVideoX)"))
    for key, inputs in INSIDE.items():
        for own, outside in inputs.items():
            assert values.pop(outside) == inside[key]["inputs"][own], outside
    assert set(values) <= {"image_fit"}


@every_blueprint
def test_blueprint_shows_the_preview_of_its_sampler(name: str):
    """A sampler inside a subgraph shows what it does only where the subgraph's node exposes it."""
    drawn = blueprint(name)
    ((exposed,), (subgraph,)) = drawn["nodes"][0]["properties"]["previewExposures"], drawn["definitions"]["subgraphs"]
    (sampler,) = [node for node in subgraph["nodes"] if node["type"] == "CogVideoXSampler"]
    assert exposed["sourceNodeId"] == str(sampler["id"])
    assert exposed["sourcePreviewName"] == "$$canvas-image-preview"
