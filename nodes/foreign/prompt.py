"""Prompts in API format."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

from .context import Find, Loss
from .convert import convert
from .drawing import Describe, Shape
from .graph import Graph, Link, Node
from .table import FOREIGN

Prompt = dict[str, dict[str, Any]]


def convert_prompt(prompt: Prompt, find: Find, describe: Describe) -> tuple[Prompt, list[str]]:
    """A prompt with our nodes in place of the wrapper's, and a sentence on each thing that is not carried over.

    A node without a counterpart that something depends on stays, with the reason in its title: ComfyUI refuses a prompt
    with a node it does not know, and says its title. One that nothing needs is left out.

    Args:
        find: as of `convert`.
        describe: the inputs of a node that is installed here; those with a default that is not set are written out, as
            a prompt must have them.
    """
    if not any(node.get("class_type") in FOREIGN for node in prompt.values()):
        return prompt, []
    graph = Graph({name: _read(node) for name, node in prompt.items()}, _new_names(prompt))
    wanted = graph.linked_nodes()
    losses = convert(graph, find)
    for name in [name for name, node in graph.nodes.items() if node.type in FOREIGN]:
        if name not in wanted or not (FOREIGN[graph.nodes[name].type].changes_result or _is_needed(graph, name)):
            del graph.nodes[name]
    graph.drop_loose_links()
    for node in graph.nodes.values():
        if node.beside is not None:
            node.inputs = {**_defaults(describe(node.type)), **node.inputs}
    converted = {
        name: _written(node, prompt.get(name), _title(prompt, node, name)) for name, node in graph.nodes.items()
    }
    return converted, [sentence(prompt, loss) for loss in losses]


def sentence(prompt: Prompt, loss: Loss) -> str:
    """A loss with the name of its node before it."""
    node = prompt[loss.node]
    return f"{node['class_type']} ({loss.node}): {loss.sentence}"


def _defaults(shape: Shape) -> dict[str, Any]:
    return {slot.name: slot.default for slot in shape.inputs if slot.is_widget}


def _is_needed(graph: Graph, name: str) -> bool:
    """Whether a node that is not the wrapper's takes what a node gives."""
    for link in graph.used_outputs(name):
        if any(graph.nodes[taker].type not in FOREIGN for taker, _ in graph.consumers(link)):
            return True
    return False


def _read(node: dict[str, Any]) -> Node:
    inputs = node.get("inputs") or {}
    return Node(node.get("class_type", ""), {key: _as_link(value) for key, value in inputs.items()})


def _as_link(value: Any) -> Any:
    """A value of a prompt; a link is a list of a node's name and the number of its output."""
    if isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int):
        return Link(*value)
    return value


def _written(node: Node, before: dict[str, Any] | None, title: str | None) -> dict[str, Any]:
    """A node in API format. `before`: what stood in its place, of which all else is kept."""
    inputs = {key: list(value) if isinstance(value, Link) else value for key, value in node.inputs.items()}
    written = {**(before or {}), "class_type": node.type, "inputs": inputs}
    if title is not None:
        written["_meta"] = {**written.get("_meta", {}), "title": title}
    return written


def _title(prompt: Prompt, node: Node, name: str) -> str | None:
    """The title to give to a node; None to leave it as it is."""
    if node.type in FOREIGN:
        return f"{node.type}: {FOREIGN[node.type].lost}; take it out of the prompt to run without it"
    if node.beside is None:
        return None
    return prompt.get(name, {}).get("_meta", {}).get("title", node.type)


def _new_names(prompt: Prompt):
    """Names for new nodes: of the node they stand beside, and what they are."""
    taken = set(prompt)

    def new_name(beside: str, kind: str) -> str:
        name = next(one for one in _numbered(f"{beside}-{kind}") if one not in taken)
        taken.add(name)
        return name

    return new_name


def _numbered(name: str) -> Iterator[str]:
    yield name
    yield from (f"{name}-{number}" for number in count(2))
