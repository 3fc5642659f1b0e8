"""Subgraph blueprints: a workflow as one node, made by the real frontend from an API file."""

from __future__ import annotations

import json
import re
import uuid
from dataclasses import dataclass
from importlib import metadata
from typing import Any, NamedTuple

from tests.support import browser
from tests.support.host import PACK_NAME, frontend_version
from tests.support.workflow_files import api_workflow, is_link
from tools.workflow_drawing import DRAW, Prompt, comfyui_version, node_sizes, placed, wanted_nodes
from tools.workflow_layout import PREVIEW_ROOM, Boxes, Group, column, row
from tools.workflow_texts import GREY, PURPLE, SETUP

CATEGORY = "CogVideoX"
WIDTH = 400
PREVIEW = "$$canvas-image-preview"  # the frontend's name for what a sampler shows while it works


class Exposed(NamedTuple):
    """A socket or widget of an inner node (by its key), and the name it has outside."""

    key: str
    name: str
    outside: str


@dataclass(frozen=True)
class Blueprint:
    """A blueprint: which API file it is made from, without which nodes, and what of it is seen from outside."""

    name: str
    source: str
    without: frozenset[str]
    inputs: tuple[Exposed, ...]
    description: str
    search_aliases: tuple[str, ...]

    @property
    def prompt(self) -> Prompt:
        """The nodes inside: those of the API file that stay, and one that makes a VIDEO of the frames."""
        nodes = {key: node for key, node in api_workflow(self.source).items() if key not in self.without}
        for node in nodes.values():
            links = {name: value for name, value in node["inputs"].items() if is_link(value)}
            node["inputs"] = {
                name: value for name, value in node["inputs"].items() if name not in links or links[name][0] in nodes
            }
        fps = api_workflow(self.source)["video"]["inputs"]["fps"]
        create = {"images": ["frames", 0], "fps": fps, "bit_depth": 8}
        nodes["create"] = {"class_type": "CreateVideo", "inputs": create, "_meta": {"title": "Create Video"}}
        return nodes


LAYOUT: Boxes = row(
    SETUP,
    Group("Sampling", GREY, column("latent", "sampler"), room=PREVIEW_ROOM),
    Group("Video", PURPLE, column("frames", "create")),
)
OUTPUTS = (("create", 0, "video"), ("frames", 0, "frames"))
PROMPTS = (Exposed("positive", "text", "prompt"), Exposed("negative", "text", "negative_prompt"))
SAMPLING = (
    *(Exposed("latent", name, name) for name in ("width", "height", "length")),
    *(Exposed("sampler", name, name) for name in ("seed", "steps", "cfg", "sampler", "dynamic_cfg")),
    Exposed("create", "fps", "fps"),
    Exposed("model", "model_name", "model_name"),
    Exposed("vae", "vae_name", "vae_name"),
    Exposed("text_encoder", "text_encoder_name", "text_encoder_name"),
)
BLUEPRINTS = (
    Blueprint(
        name="Text to Video (CogVideoX)",
        source="Text to Video",
        without=frozenset({"video"}),
        inputs=PROMPTS + SAMPLING,
        description=(
            "Makes a video from a prompt with CogVideoX. Runs at once with the demo model that comes with the nodes; "
            "for others, choose all three files and set size, length, steps, cfg and fps as the model wants them."
        ),
        search_aliases=("t2v", "text2video", "prompt to video"),
    ),
    Blueprint(
        name="Image to Video (CogVideoX)",
        source="Image to Video",
        without=frozenset({"video", "background", "square", "start_image", "preview"}),
        inputs=(
            Exposed("latent", "start_image", "start_image"),
            Exposed("latent", "end_image", "end_image"),
            *PROMPTS,
            Exposed("latent", "image_fit", "image_fit"),
            *SAMPLING,
        ),
        description=(
            "Makes a video that starts with an image, and may end with another, with a CogVideoX I2V model. Runs at "
            "once with the demo model that comes with the nodes; for others, choose all three files and set size, "
            "length, steps, cfg and fps as the model wants them."
        ),
        search_aliases=("i2v", "image2video", "first frame", "last frame"),
    ),
)

# All that is on the canvas into one node, with these of its widgets and sockets on it.
CONVERT = """
({name, inputs, outputs, width}) => {
  const graph = app.rootGraph
  const {subgraph, node} = graph.convertToSubgraph(new Set([...graph.nodes, ...graph.groups]))
  const inner = (title) => {
    const found = subgraph.nodes.filter((one) => one.title === title)
    if (found.length !== 1) throw new Error(`${found.length} nodes are called ${title}`)
    return found[0]
  }
  subgraph.name = node.title = name
  for (const chosen of [...subgraph.inputs]) subgraph.removeInput(chosen)  // the frontend takes some by itself
  for (const [title, slotName, outside] of inputs) {
    const owner = inner(title)
    const slot = owner.inputs.find((one) => one.name === slotName)
    if (!slot) throw new Error(`${title} has no input ${slotName}`)
    if (!subgraph.addInput(outside, String(slot.type)).connect(slot, owner)) throw new Error(`${slotName} took no link`)
    const [shown, inside] = [[node, outside], [owner, slotName]].map(([one, at]) =>
      one.widgets?.find((widget) => widget.name === at))
    if (inside) shown.value = inside.value  // and not what a node of this number had before
  }
  for (const [title, index, outside] of outputs) {
    const owner = inner(title)
    const slot = owner.outputs[index]
    if (!subgraph.addOutput(outside, String(slot.type)).connect(slot, owner)) throw new Error(`${outside} took no link`)
  }
  node.pos = [0, 0]
  node.setSize([width, node.computeSize()[1]])
  return JSON.stringify({graph: graph.serialize(), sampler: inner("CogVideoX Sampler").id})
}
"""


def draw_blueprint(blueprint: Blueprint, canvas: browser.Canvas) -> dict[str, Any]:
    """The blueprint's file: a workflow of one node, whose type is the subgraph it brings with it."""
    prompt = blueprint.prompt
    titles = {key: node["_meta"]["title"] for key, node in prompt.items()}
    nodes = wanted_nodes(prompt, comfyui_version(canvas.host))
    canvas.evaluate(DRAW, placed(nodes, node_sizes(prompt), LAYOUT))
    wanted = {
        "name": blueprint.name,
        "inputs": [[titles[key], name, outside] for key, name, outside in blueprint.inputs],
        "outputs": [[titles[key], index, outside] for key, index, outside in OUTPUTS],
        "width": WIDTH,
    }
    made = json.loads(with_lasting_ids(canvas.evaluate(CONVERT, wanted), blueprint.name))
    drawn, (node,), (subgraph,) = made["graph"], made["graph"]["nodes"], made["graph"]["definitions"]["subgraphs"]
    node["properties"] = {
        "cnr_id": PACK_NAME,
        "ver": metadata.version(PACK_NAME),
        "previewExposures": [{"name": PREVIEW, "sourceNodeId": str(made["sampler"]), "sourcePreviewName": PREVIEW}],
    }
    subgraph["category"] = CATEGORY
    drawn["extra"] = {
        "frontendVersion": frontend_version(),
        "BlueprintDescription": blueprint.description,
        "BlueprintSearchAliases": list(blueprint.search_aliases),
    }
    return drawn


def with_lasting_ids(text: str, name: str) -> str:
    """The random UUIDs in a text as others that are the same whenever the blueprint is made."""
    made: dict[str, str] = {}
    for found in re.findall(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", text):
        made.setdefault(found, str(uuid.uuid5(uuid.NAMESPACE_URL, f"{PACK_NAME}/{name}/{len(made)}")))
    for found, lasting in made.items():
        text = text.replace(found, lasting)
    return text
