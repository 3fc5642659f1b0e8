"""Workflows as the canvas saves them: nodes with places and values without names, links in a list of their own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from .context import Find
from .convert import convert
from .drawing import Describe, Floor, drawn
from .graph import MUTED, Graph, Link, Node
from .table import FOREIGN, SLOT_TYPES, ForeignNode

Json = dict[str, Any]

# Ends of links at the frame of a subgraph, as LiteGraph numbers them.
_SUBGRAPH_INPUT, _SUBGRAPH_OUTPUT = "-10", "-20"
_SEED, _CONTROL = "seed", "control_after_generate"
_CONTROLS = ("fixed", "increment", "decrement", "randomize")

# Values of other packs' and ComfyUI's nodes that the rewriting looks at, by their order.
_READ_VALUES = {
    "EmptyLatentImage": ("width", "height"),
    "EmptySD3LatentImage": ("width", "height"),
    "SetNode": ("name",),
    "GetNode": ("name",),
}


def convert_workflow(workflow: Json, find: Find, describe: Describe) -> tuple[Json, list[str]]:
    """A workflow with our nodes in place of the wrapper's, and a sentence on each thing that is not carried over.

    Nodes without a counterpart stay, muted; their links stay among themselves and to other packs' nodes.

    Args:
        workflow: of LiteGraph's version 0.4, with its subgraphs; it is not changed.
        find: as of `convert`.
        describe: the inputs and outputs of a node that is installed here.
    """
    subgraphs = workflow.get("definitions", {}).get("subgraphs", [])
    numbers = _Numbers([workflow, *subgraphs])
    sentences: list[str] = []
    root = _converted(workflow, numbers, find, describe, sentences)
    if subgraphs:
        parts = [_converted(part, numbers, find, describe, sentences) for part in subgraphs]
        root["definitions"] = {**workflow["definitions"], "subgraphs": parts}
    for part in (root, *root.get("definitions", {}).get("subgraphs", [])):
        numbers.note_in(part)
    return root, sentences


class _Numbers:
    """The largest numbers of nodes and links; subgraphs share them with the graph around."""

    def __init__(self, graphs: list[Json]):
        nodes, links = [], []
        for graph in graphs:
            nodes += [node["id"] for node in graph.get("nodes", [])]
            links += [_Wire.read(link).id for link in graph.get("links", [])]
        states = [graph.get("state", {}) for graph in graphs]
        noted_nodes = [
            *(graph.get("last_node_id", 0) for graph in graphs),
            *(one.get("lastNodeId", 0) for one in states),
        ]
        noted_links = [
            *(graph.get("last_link_id", 0) for graph in graphs),
            *(one.get("lastLinkId", 0) for one in states),
        ]
        self.node = max(*(int(one) for one in nodes if str(one).isdecimal()), *noted_nodes, 0)
        self.link = max(*links, *noted_links, 0)

    def next_node(self, beside: str, kind: str) -> str:
        self.node += 1
        return str(self.node)

    def next_link(self) -> int:
        self.link += 1
        return self.link

    def note_in(self, graph: Json) -> None:
        """Write the largest numbers where a graph keeps them."""
        if "state" in graph:
            graph["state"] = {**graph["state"], "lastNodeId": self.node, "lastLinkId": self.link}
        if "last_node_id" in graph:
            graph |= {"last_node_id": self.node, "last_link_id": self.link}


class _Wire(NamedTuple):
    """A link of a workflow; a list in its root, an object in subgraphs."""

    id: int
    origin: str
    slot: int
    target: str
    target_slot: int
    type: str

    @classmethod
    def read(cls, link: Any) -> _Wire:
        if isinstance(link, dict):
            keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
            link = [link[key] for key in keys]
        number, origin, slot, target, target_slot, kind = link[:6]
        return cls(number, str(origin), slot, str(target), target_slot, kind)

    def written(self, like: Any, before: Any) -> Any:
        """In the form of `like`; what else stood in the link before, a reroute say, is kept."""
        values = (self.id, _number(self.origin), self.slot, _number(self.target), self.target_slot, self.type)
        if isinstance(like, list):
            return list(values)
        keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
        return {**(before or {}), **dict(zip(keys, values, strict=True))}


def _number(name: str) -> int | str:
    return int(name) if name.lstrip("-").isdecimal() else name


def _converted(graph: Json, numbers: _Numbers, find: Find, describe: Describe, sentences: list[str]) -> Json:
    """One graph of a workflow; sentences are added to."""
    if not any(node["type"] in FOREIGN for node in graph["nodes"]):
        return {**graph}
    before = {str(node["id"]): node for node in graph["nodes"]}
    wires = {wire.id: wire for wire in map(_Wire.read, graph["links"])}
    neutral = Graph({name: _read(node, wires) for name, node in before.items()}, numbers.next_node)
    frame = [wire for wire in wires.values() if wire.target == _SUBGRAPH_OUTPUT]
    neutral.nodes[_SUBGRAPH_INPUT] = Node("the subgraph's input")
    neutral.nodes[_SUBGRAPH_OUTPUT] = Node(
        "the subgraph's output", {str(wire.target_slot): Link(wire.origin, wire.slot) for wire in frame}
    )
    for loss in convert(neutral, find):
        sentences.append(f"{_title(before[loss.node])}: {loss.sentence}")
    frame_nodes = {name: neutral.nodes.pop(name) for name in (_SUBGRAPH_INPUT, _SUBGRAPH_OUTPUT)}
    nodes = _written_nodes(neutral, before, describe)
    ends: dict[str, tuple[Node, Json | None]] = {_SUBGRAPH_OUTPUT: (frame_nodes[_SUBGRAPH_OUTPUT], None)}
    ends |= {name: (node, nodes[name]) for name, node in neutral.nodes.items()}
    return _wired(graph, nodes, list(_ends(ends)), wires, numbers)


# ---- reading


def _read(node: Json, wires: dict[int, _Wire]) -> Node:
    """A node of the canvas with its links, and with the values of which the names are known."""
    kind, inputs = node["type"], dict(_named_values(node))
    for key, slot in _keyed(node):
        wire = wires.get(slot.get("link", -1))
        if wire:
            inputs[key] = Link(wire.origin, wire.slot)
    return Node(kind, inputs, mode=node.get("mode", 0))


def _keyed(node: Json) -> Iterator[tuple[str, Json]]:
    """Inputs by their names, or by "#" and their number where a name is empty or stands twice."""
    slots = node.get("inputs") or []
    names = [slot.get("name") for slot in slots]
    for number, (name, slot) in enumerate(zip(names, slots, strict=True)):
        yield (name if name and names.count(name) == 1 else f"#{number}"), slot


def _named_values(node: Json) -> Iterator[tuple[str, Any]]:
    values = node.get("widgets_values") or []
    if isinstance(values, dict):
        yield from values.items()
    elif node["type"] in FOREIGN:
        yield from _with_names(_value_names(FOREIGN[node["type"]], node, values), values)
    else:
        yield from zip(_READ_VALUES.get(node["type"], ()), values, strict=False)


def _value_names(row: ForeignNode, node: Json, values: list[Any]) -> tuple[str, ...]:
    """The names of a node's values: as the workflow says, else in today's order, else in the former one."""
    said = tuple(slot["widget"]["name"] for slot in node.get("inputs") or [] if "name" in (slot.get("widget") or {}))
    if said and len(dict(_with_names(said, values))) == len(values):
        return said
    today = tuple(widget.name for widget in row.widgets)
    defaults = dict(row.defaults())
    fits = all(_alike(value, defaults[name]) for name, value in _with_names(today, values) if name in defaults)
    return row.former if row.former and not fits else today


def _with_names(names: tuple[str, ...], values: list[Any]) -> Iterator[tuple[str, Any]]:
    """Values with their names; a seed's control has no name among them, and stands behind the seed."""
    rest = list(values)
    for name in names:
        if rest:
            yield name, rest.pop(0)
        if name == _SEED and rest and rest[0] in _CONTROLS:
            yield _CONTROL, rest.pop(0)


def _alike(value: Any, default: Any) -> bool:
    """Whether a value can be that of an input with this default."""
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    return isinstance(value, str) == isinstance(default, str)


def _title(node: Json) -> str:
    return f"{node.get('title') or node['type']} ({node['id']})"


# ---- writing


def _written_nodes(graph: Graph, before: dict[str, Json], describe: Describe) -> dict[str, Json]:
    """The nodes of a converted graph as the canvas has them, without links; new ones where there is room."""
    kept = {name: _kept(before[name], node) for name, node in graph.nodes.items() if node.beside is None}
    made = {name: node for name, node in graph.nodes.items() if node.beside is not None}
    floor = Floor(kept.values())
    in_place = {
        name: drawn(name, node, describe, floor, before[name], stays=True)
        for name, node in made.items()
        if name in before
    }
    beside = {
        name: drawn(
            name, node, describe, floor, before.get(node.beside or "") or in_place[node.beside or ""], stays=False
        )
        for name, node in made.items()
        if name not in before
    }
    written = kept | in_place | beside
    return {name: written[name] for name in graph.nodes}


def _kept(node: Json, read: Node) -> Json:
    """A node that stays; one without a counterpart is muted. Slots that handed on what is of ours now say so."""
    changed = {**node}
    for side in ("inputs", "outputs"):
        if side in node:
            changed[side] = [
                {**slot, "type": SLOT_TYPES.get(slot.get("type"), slot.get("type"))} for slot in node[side] or []
            ]
    if read.type in FOREIGN:
        changed["mode"] = MUTED
    return changed


class _End(NamedTuple):
    """Where a link goes to: input `slot`, called `key`, of a node; `link` is what it is linked to."""

    target: str
    slot: int
    key: str
    link: Link


def _ends(nodes: dict[str, tuple[Node, Json | None]]) -> Iterator[_End]:
    for name, (node, written) in nodes.items():
        slots = {key: number for number, (key, _) in enumerate(_keyed(written))} if written else None
        for key, value in node.inputs.items():
            if isinstance(value, Link) and (slots is None or key in slots):
                yield _End(name, int(key) if slots is None else slots[key], key, value)


def _wired(graph: Json, nodes: dict[str, Json], ends: list[_End], wires: dict[int, _Wire], numbers: _Numbers) -> Json:
    """The graph with its nodes linked anew; a link that goes where it went keeps its number."""
    numbers_before = {(wire.origin, wire.slot, wire.target, wire.target_slot): wire.id for wire in wires.values()}
    raw = {_Wire.read(link).id: link for link in graph["links"]}
    for node in nodes.values():
        node["inputs"] = [{**slot, "link": None} for slot in node.get("inputs") or []]
        node["outputs"] = [{**slot, "links": []} for slot in node.get("outputs") or []]
    written = []
    form = graph["links"][0] if graph["links"] else []
    for end in ends:
        number = numbers_before.get((end.link.node, end.link.slot, end.target, end.slot)) or numbers.next_link()
        kind = _link_type(nodes, end, wires.get(number))
        wire = _Wire(number, end.link.node, end.link.slot, end.target, end.slot, kind)
        written.append(wire.written(form, raw.get(number)))
        if end.link.node in nodes:
            nodes[end.link.node]["outputs"][end.link.slot]["links"].append(number)
        if end.target in nodes:
            nodes[end.target]["inputs"][end.slot]["link"] = number
    changed = {**graph, "nodes": list(nodes.values()), "links": written}
    kept_wires = [_Wire.read(link) for link in written]
    alive = {wire.id for wire in kept_wires}
    for side, own, at in (("inputs", _SUBGRAPH_INPUT, "slot"), ("outputs", _SUBGRAPH_OUTPUT, "target_slot")):
        if side in graph:
            changed[side] = [_frame_slot(slot, number, own, at, kept_wires) for number, slot in enumerate(graph[side])]
    return _with_reroutes(changed, alive)


def _link_type(nodes: dict[str, Json], end: _End, before: _Wire | None) -> str:
    if end.link.node in nodes:
        return nodes[end.link.node]["outputs"][end.link.slot]["type"]
    return SLOT_TYPES.get(before.type, before.type) if before else nodes[end.target]["inputs"][end.slot]["type"]


def _frame_slot(slot: Json, number: int, own: str, at: str, wires: list[_Wire]) -> Json:
    """An input or output of a subgraph with the links that are at it."""
    end = "origin" if own == _SUBGRAPH_INPUT else "target"
    links = [wire.id for wire in wires if getattr(wire, end) == own and getattr(wire, at) == number]
    return {**slot, "type": SLOT_TYPES.get(slot["type"], slot["type"]), "linkIds": links}


def _with_reroutes(graph: Json, alive: set[int]) -> Json:
    """Reroutes on links, without the links that are gone."""
    extra = {**graph.get("extra", {})}
    if "linkExtensions" in extra:
        extra["linkExtensions"] = [one for one in extra["linkExtensions"] if one["id"] in alive]
    for holder in (extra, graph):
        if isinstance(holder.get("reroutes"), list):
            holder["reroutes"] = [_alive_reroute(one, alive) for one in holder["reroutes"]]
    return {**graph, "extra": extra} if extra else graph


def _alive_reroute(reroute: Json, alive: set[int]) -> Json:
    return {**reroute, "linkIds": [number for number in reroute.get("linkIds", []) if number in alive]}
