"""A graph between the formats: nodes with named inputs, each a value or a link to another node's output."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

# LiteGraph's numbers for a node that does nothing, and for one that hands its inputs on.
MUTED, BYPASSED = 2, 4

# Nodes of the canvas, and of KJNodes, that hand on what they are linked to. (A Get node has no link, but a name.)
_HAND_ON = ("Reroute", "SetNode")


class Link(NamedTuple):
    """Output `slot` of the node `node`."""

    node: str
    slot: int


@dataclass
class Node:
    """A node.

    `beside`: the node that a new one helps, near which it is drawn; None for one that was there before.
    `mode`: LiteGraph's, 0 for a node that runs.
    """

    type: str
    inputs: dict[str, Any] = field(default_factory=dict)
    beside: str | None = None
    mode: int = 0


@dataclass
class Graph:
    """Nodes by their ids. `new_id(beside, purpose)` makes the id of a node that is added."""

    nodes: dict[str, Node]
    new_id: Callable[[str, str], str]

    def add(self, kind: str, beside: str, inputs: dict[str, Any]) -> str:
        """A new node that helps `beside`; its id. Inputs that are None are left out."""
        name = self.new_id(beside, kind)
        self.nodes[name] = Node(kind, _given(inputs), beside, self.nodes[beside].mode)
        return name

    def become(self, name: str, kind: str, inputs: dict[str, Any]) -> None:
        """Replace a node by another one; its id stays, and with it what is linked to it."""
        self.nodes[name] = Node(kind, _given(inputs), name, self.nodes[name].mode)

    def of_type(self, *kinds: str) -> list[str]:
        """The ids of all nodes of these types."""
        return [name for name, node in self.nodes.items() if node.type in kinds]

    def consumers(self, link: Link) -> list[tuple[str, str]]:
        """The nodes, and their inputs, that take an output."""
        return [(name, key) for name, key, value in self._inputs() if value == link]

    def linked_nodes(self) -> set[str]:
        """The ids of all nodes of which another node takes an output."""
        return {value.node for _, _, value in self._inputs() if isinstance(value, Link)}

    def used_outputs(self, name: str) -> Iterator[Link]:
        """The outputs of a node that any node takes."""
        links = {value for _, _, value in self._inputs() if isinstance(value, Link)}
        return (link for link in sorted(links) if link.node == name)

    def _inputs(self) -> Iterator[tuple[str, str, Any]]:
        """Node, name and value of every input."""
        for name, node in self.nodes.items():
            yield from ((name, key, value) for key, value in node.inputs.items())

    def reroute(self, old: Link, new: Link | None) -> None:
        """Let everything that takes one output take another; None takes the links away."""
        for name, key in self.consumers(old):
            if new is None:
                del self.nodes[name].inputs[key]
            else:
                self.nodes[name].inputs[key] = new

    def drop_loose_links(self) -> None:
        """Take away the links to nodes that are gone."""
        for node in self.nodes.values():
            for key in [key for key, value in node.inputs.items() if self._is_loose(value)]:
                del node.inputs[key]

    def _is_loose(self, value: Any) -> bool:
        return isinstance(value, Link) and value.node not in self.nodes

    def is_used(self, link: Link) -> bool:
        """Whether a node takes an output, be it past reroutes and Set and Get nodes."""
        for name, _ in self.consumers(link):
            node = self.nodes[name]
            others = self._getters(node) if node.type == "SetNode" else []
            if node.type not in _HAND_ON or any(self.is_used(Link(one, 0)) for one in (name, *others)):
                return True
        return False

    def _getters(self, setter: Node) -> list[str]:
        """The Get nodes that hand on what a Set node holds."""
        return [
            name for name in self.of_type("GetNode") if self.nodes[name].inputs.get("name") == setter.inputs["name"]
        ]

    def source(self, value: Any) -> Link | None:
        """Where a link begins, past reroutes and Set and Get nodes; None if it is none, or leads to a muted node."""
        seen = set()
        while isinstance(value, Link) and value.node in self.nodes and value not in seen:
            seen.add(value)
            node = self.nodes[value.node]
            if node.mode == MUTED:
                return None
            if node.type == "GetNode":
                value = self._set_value(node.inputs.get("name"))
            elif node.type in _HAND_ON:
                value = next((one for one in node.inputs.values() if isinstance(one, Link)), None)
            else:
                return value
        return None

    def _set_value(self, name: Any) -> Any:
        """What the Set node of KJNodes with this name holds."""
        for node in self.nodes.values():
            if node.type == "SetNode" and node.inputs.get("name") == name:
                return next((one for one in node.inputs.values() if isinstance(one, Link)), None)
        return None


def _given(inputs: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in inputs.items() if value is not None}
