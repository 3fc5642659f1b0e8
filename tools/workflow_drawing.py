"""Canvas workflows, drawn by the real frontend from API files."""

from __future__ import annotations

import json
import uuid
from importlib import metadata
from typing import Any

from tests.support import browser
from tests.support.host import PACK_NAME, Host, frontend_version
from tests.support.workflow_files import DOWNLOADS, OUR_PREFIX, api_workflow, is_link
from tests.support.workflow_files import NOTE as NOTE_TYPE
from tools.workflow_layout import NOTE, SIZES, Box, Placement, Point
from tools.workflow_texts import Workflow

Prompt = dict[str, dict[str, Any]]
NOTE_COLOURS = {"color": "#2a2e35", "bgcolor": "#1a1c20"}  # on its usual brown, links and tables are hard to read

DRAW = """
async ({nodes, groups}) => {
  const graph = app.rootGraph
  graph.clear()
  const made = {}
  for (const wanted of nodes) {
    const node = LiteGraph.createNode(wanted.type)
    if (!node) throw new Error(`no node ${wanted.type}`)
    node.id = wanted.id
    graph.add(node)
    node.title = wanted.title
    if (wanted.color) Object.assign(node, {color: wanted.color, bgcolor: wanted.bgcolor})
    Object.assign(node.properties, wanted.properties)
    for (const [name, value] of Object.entries(wanted.widgets)) {
      const widget = node.widgets?.find((one) => one.name === name)
      if (!widget) throw new Error(`${wanted.type} has no widget ${name}`)
      widget.value = value
    }
    made[wanted.id] = node
  }
  for (const wanted of nodes)
    for (const [name, [from, output]] of Object.entries(wanted.links)) {
      const input = made[wanted.id].inputs.findIndex((one) => one.name === name)
      if (input < 0) throw new Error(`${wanted.type} has no input ${name}`)
      if (!made[from].connect(output, made[wanted.id], input)) throw new Error(`${wanted.type}.${name} took no link`)
    }
  for (const wanted of nodes) {
    made[wanted.id].pos = wanted.pos
    made[wanted.id].setSize(wanted.size)
  }
  for (const wanted of groups) {
    const group = new LiteGraph.LGraphGroup(wanted.title)
    graph.add(group)
    group.configure({...group.serialize(), ...wanted})
  }
  return JSON.stringify(graph.serialize())
}
"""


def draw(workflow: Workflow, canvas: browser.Canvas) -> dict[str, Any]:
    """The canvas workflow, as the frontend saves it."""
    prompt = api_workflow(workflow.title)
    nodes = wanted_nodes(prompt, comfyui_version(canvas.host))
    nodes[NOTE] = {"type": NOTE_TYPE, "title": "Read Me", "widgets": {"text": workflow.note}, "links": {}}
    nodes[NOTE] |= {"id": len(nodes), **NOTE_COLOURS}
    sizes = {**node_sizes(prompt), NOTE: workflow.note_size}
    drawn = json.loads(canvas.evaluate(DRAW, placed(nodes, sizes, workflow.layout)))
    drawn["id"] = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{PACK_NAME}/{workflow.title}"))
    drawn["extra"] = {"frontendVersion": frontend_version()}  # no view: the frontend then shows the whole graph
    return drawn


def node_sizes(prompt: Prompt) -> dict[str, Point]:
    """Width and height of each node of an API file."""
    return {key: SIZES.get(key) or SIZES[node["class_type"]] for key, node in prompt.items()}


def placed(nodes: dict[str, dict[str, Any]], sizes: dict[str, Point], layout: Box) -> dict[str, Any]:
    """What DRAW takes: nodes where the layout puts them, and its groups.

    Raises: ValueError if the layout leaves out a node.
    """
    placement = Placement(sizes)
    placement.put(layout, 0, 0)
    if left_out := set(sizes) - set(placement.corners):
        raise ValueError(f"the layout leaves out {left_out}")
    at = [{**node, "pos": placement.corners[key], "size": sizes[key]} for key, node in nodes.items()]
    return {"nodes": at, "groups": placement.groups}


def wanted_nodes(prompt: Prompt, comfyui: str) -> dict[str, dict[str, Any]]:
    """What DRAW is given about the nodes of an API file, by their keys; `comfyui` is its version."""
    ids = {key: number for number, key in enumerate(prompt, start=1)}
    nodes = {}
    for key, node in prompt.items():
        kind, inputs = node["class_type"], node["inputs"]
        ours = kind.startswith(OUR_PREFIX)
        package, version = (PACK_NAME, metadata.version(PACK_NAME)) if ours else ("comfy-core", comfyui)
        nodes[key] = {
            "id": ids[key],
            "type": kind,
            "title": node["_meta"]["title"],
            "widgets": {name: value for name, value in inputs.items() if not is_link(value)},
            "links": {name: [ids[value[0]], value[1]] for name, value in inputs.items() if is_link(value)},
            "properties": {"Node name for S&R": kind, "cnr_id": package, "ver": version},
        }
        if files := [DOWNLOADS[value].metadata for value in inputs.values() if is_download(value)]:
            nodes[key]["properties"]["models"] = files
    return nodes


def is_download(value: Any) -> bool:
    """Whether an input of an API file names a file to download."""
    return isinstance(value, str) and value in DOWNLOADS


def comfyui_version(host: Host) -> str:
    """The version of the running ComfyUI."""
    return host.request("/system_stats")["system"]["comfyui_version"]
