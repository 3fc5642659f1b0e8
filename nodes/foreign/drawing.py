"""Nodes as the canvas saves them: slots and values as of the nodes that are installed, places where there is room."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from .graph import Link, Node

Json = dict[str, Any]

_TITLE_BAR, _SLOT, _WIDGET, _TEXT, _MARGIN = 30, 20, 26, 60, 20  # pixels, as LiteGraph draws
_WIDTH = 300
_GAP, _TRIES = 20, 400
_CONTROL = "control_after_generate"


class Slot(NamedTuple):
    """An input of a node. `default`: of its value, where `is_widget`; `has_control`: whether ComfyUI's control of what
    comes after a run stands behind it.
    """

    name: str
    type: str
    is_widget: bool = False
    default: Any = None
    has_control: bool = False
    is_text: bool = False


class Shape(NamedTuple):
    """Inputs in the order of their definition, and outputs as names and types."""

    inputs: tuple[Slot, ...]
    outputs: tuple[tuple[str, str], ...]
    package: str


Describe = Callable[[str], Shape]


class Floor:
    """What of the canvas is taken, as left, top, right and bottom of nodes with their title bars."""

    def __init__(self, nodes: Iterable[Mapping[str, Any]]):
        self.taken = [_box(*_place(node)) for node in nodes]

    def room(self, left: float, top: float, size: tuple[float, float]) -> tuple[float, float]:
        """The first free place for a node at or below a point."""
        for _ in range(_TRIES):
            box = _box(left, top, *size)
            hit = [other for other in self.taken if _overlap(box, other)]
            if not hit:
                break
            top = max(other[3] for other in hit) + _GAP + _TITLE_BAR
        self.take(left, top, size)
        return left, top

    def take(self, left: float, top: float, size: tuple[float, float]) -> None:
        """Note that a node stands there."""
        self.taken.append(_box(left, top, *size))


def drawn(name: str, node: Node, describe: Describe, floor: Floor, near: Json, *, stays: bool) -> Json:
    """A node of ours as the canvas saves it, without links.

    Args:
        near: a node of the canvas: the one it takes the place of, with its title and colours, if it `stays` there, else
            one that it is put near.
    """
    shape = describe(node.type)
    sockets = [slot for slot in shape.inputs if not slot.is_widget]
    widgets = [slot for slot in shape.inputs if slot.is_widget]
    left, top, width, height = _place(near)
    needed = (_WIDTH, _height(sockets, widgets, shape))
    size = (max(width, needed[0]), max(height, needed[1])) if stays else needed
    if stays:
        floor.take(left, top, size)
    else:
        left, top = floor.room(left, top, size)
    written = {
        "id": int(name) if name.isdecimal() else name,
        "type": node.type,
        "pos": [left, top],
        "size": list(size),
        "flags": {},
        "order": near.get("order", 0),
        "mode": node.mode,
        "inputs": [_input(slot) for slot in (*sockets, *widgets)],
        "outputs": [{"name": title, "type": kind, "links": []} for title, kind in shape.outputs],
        "properties": {"Node name for S&R": node.type, "cnr_id": shape.package},
        "widgets_values": _values(widgets, node),
    }
    return {**{key: near[key] for key in ("title", "color", "bgcolor") if stays and key in near}, **written}


def _input(slot: Slot) -> Json:
    widget = {"widget": {"name": slot.name}} if slot.is_widget else {}
    return {"name": slot.name, "type": slot.type, **widget, "link": None}


def _values(widgets: list[Slot], node: Node) -> list[Any]:
    values = []
    for slot in widgets:
        value = node.inputs.get(slot.name, slot.default)
        values.append(slot.default if isinstance(value, Link) else value)
        if slot.has_control:
            values.append(node.inputs.get(_CONTROL, "fixed"))
    return values


def _height(sockets: list[Slot], widgets: list[Slot], shape: Shape) -> float:
    rows = max(len(sockets), len(shape.outputs)) * _SLOT
    lines = sum(_WIDGET * (1 + slot.has_control) + _TEXT * slot.is_text for slot in widgets)
    return rows + lines + _MARGIN


def _place(node: Mapping[str, Any]) -> tuple[float, float, float, float]:
    """Left, top, width and height; older files keep pairs as objects."""
    (left, top), (width, height) = (_pair(node[key]) for key in ("pos", "size"))
    return left, top, width, height


def _pair(value: Any) -> tuple[float, float]:
    return (value["0"], value["1"]) if isinstance(value, dict) else (value[0], value[1])


def _box(left: float, top: float, width: float, height: float) -> tuple[float, float, float, float]:
    return left, top - _TITLE_BAR, left + width, top + height


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
