"""Workflows of the CogVideoX wrapper: where ComfyUI calls the conversion of `nodes/foreign`.

That is its registry of replacements, its handlers of prompts, and two routes for the canvas.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from typing import Any

from aiohttp import web
from comfy_api.latest import ComfyAPI, io
from server import PromptServer

import nodes as comfyui_nodes

from ...foreign.drawing import Shape, Slot
from ...foreign.prompt import convert_prompt
from ...foreign.table import TABLE, ForeignNode
from ...foreign.workflow import convert_workflow
from ..types.folders import choices, lora_choices

logger = logging.getLogger("cogvideox")

ROUTE = "/cogvideox/foreign"
_PACKAGE = "cogvideox-nodes"
_VALUES = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")


def install() -> None:
    """Announce what converts the wrapper's workflows. To be called while ComfyUI loads packs.

    The wrapper may be loaded after this pack: whether it is there is seen when all are loaded, as the server starts.
    """
    server = PromptServer.instance
    server.routes.get(ROUTE)(_list_types)
    server.routes.post(ROUTE)(_convert_workflow)
    server.app.on_startup.append(_start)


def _installed() -> dict[str, Any]:
    """The classes of all nodes, by id. `nodes` is ComfyUI's module; a type checker finds our folder of that name."""
    return comfyui_nodes.NODE_CLASS_MAPPINGS  # pyright: ignore[reportAttributeAccessIssue]


def wrapper_is_installed() -> bool:
    """Whether any of the wrapper's nodes is registered: then they are its business, and nothing is done."""
    return any(row.id in _installed() for row in TABLE)


async def _start(_: web.Application) -> None:
    try:
        await _announce()
    except Exception as error:  # raised here, it would stop the whole server
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        logger.warning("no conversion of the CogVideoX wrapper's prompts in this ComfyUI (%s)", reason)


async def _announce() -> None:
    if wrapper_is_installed():
        return
    server = PromptServer.instance
    server.add_on_prompt_handler(_on_prompt)
    for row in TABLE:
        if row.exchange:
            await ComfyAPI().node_replacement.register(_replacement(row))


def _replacement(row: ForeignNode) -> io.NodeReplace:
    """A row as ComfyUI's registry has it."""
    exchange = row.exchange
    assert exchange is not None
    inputs: list[Any] = [{"new_id": ours, "old_id": theirs} for theirs, ours in exchange.inputs.items()]
    constants: list[Any] = [{"new_id": ours, "set_value": value} for ours, value in exchange.constants.items()]
    return io.NodeReplace(
        new_node_id=exchange.node,
        old_node_id=row.id,
        old_widget_ids=row.widget_ids(),
        input_mapping=[*inputs, *constants],
        output_mapping=[{"old_idx": theirs, "new_idx": ours} for theirs, ours in exchange.outputs.items()],
    )


def _on_prompt(data: dict[str, Any]) -> dict[str, Any]:
    """Rewrite a prompt before ComfyUI looks at its nodes; one that is no prompt is left to ComfyUI's own words."""
    prompt = data.get("prompt")
    if not isinstance(prompt, dict) or not all(isinstance(node, dict) for node in prompt.values()):
        return data
    converted, sentences = convert_prompt(prompt, find, describe)
    for sentence in sentences:
        logger.warning("not carried over from the CogVideoX wrapper: %s", sentence)
    return {**data, "prompt": converted}


async def _list_types(_: web.Request) -> web.Response:
    """The types that become others here, and those that are muted; none while the wrapper is installed."""
    rows = [] if wrapper_is_installed() else TABLE
    become = [row.id for row in rows if row.becomes]
    muted = [row.id for row in rows if not row.becomes]
    return web.json_response({"become": become, "muted": muted})


async def _convert_workflow(request: web.Request) -> web.Response:
    """{"workflow", "sentences"} for a workflow of the canvas; 400 and a sentence for what is none."""
    try:
        workflow, sentences = await request.json(), []
        if not wrapper_is_installed():
            workflow, sentences = convert_workflow(workflow, find, describe)
    except (json.JSONDecodeError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        return web.json_response({"error": f"this is no workflow of the canvas: {error!r}"}, status=400)
    return web.json_response({"workflow": workflow, "sentences": sentences})


# ---- what is here


def find(component: str, names: Iterable[str]) -> str | None:
    """What a loader offers for the first of some names that it has: the name itself, a path that ends with it, or a
    folder of that name with the component in it. Large and small letters are the same.
    """
    offered = list(lora_choices() if component == "lora" else choices(component))  # pyright: ignore[reportArgumentType]
    for name in names:
        wanted = name.replace("\\", "/").casefold()
        for choice in offered:
            path = choice.casefold()
            if (
                path == wanted
                or path.endswith((f"/{wanted}", f"/{wanted}/{component}"))
                or path == f"{wanted}/{component}"
            ):
                return choice
    return None


def describe(kind: str) -> Shape:
    """Inputs and outputs of an installed node. Raises: KeyError if there is none of that name."""
    node = _installed()[kind]
    sections = node.INPUT_TYPES()
    given = {**sections.get("required", {}), **sections.get("optional", {})}
    names = getattr(node, "RETURN_NAMES", None) or node.RETURN_TYPES
    ours = kind.startswith("CogVideoX")
    return Shape(
        tuple(_slot(name, *entry) for name, entry in given.items()),
        tuple(zip(names, node.RETURN_TYPES, strict=True)),
        _PACKAGE if ours else "comfy-core",
    )


def _slot(name: str, kind: Any, options: dict[str, Any] | None = None) -> Slot:
    options = options or {}
    listed = kind if isinstance(kind, list) else options.get("options")
    kind = "COMBO" if isinstance(kind, list) else kind
    if kind not in _VALUES or options.get("forceInput"):
        return Slot(name, kind)
    default = options.get("default", listed[0] if listed else _EMPTY.get(kind))
    control = bool(options.get("control_after_generate"))
    return Slot(name, kind, True, default, control, bool(options.get("multiline")))


_EMPTY = {"INT": 0, "FLOAT": 0.0, "STRING": "", "BOOLEAN": False, "COMBO": ""}
