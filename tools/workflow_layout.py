"""Where the nodes of a canvas workflow are: boxes in boxes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.support.workflow_files import TITLE_BAR

Point = tuple[float, float]

GROUP_BAR, MARGIN, GAP = 40, 20, 30
PREVIEW_ROOM = 250  # what a sampler grows by while it shows a square one
NOTE = "note"  # the note's key, next to those of the API file

# Width and height that hold the widgets in both renderers (Nodes 2.0 needs more height than the classic one), by the
# node's key or its class.
SIZES: dict[str, Point] = {
    "CogVideoXLoadModel": (340, 110),
    "CogVideoXLoadVAE": (340, 86),
    "CogVideoXLoadT5": (340, 86),
    "CogVideoXLoadLoRA": (340, 170),
    "CogVideoXQuantizeINT8": (340, 86),
    "CogVideoXSpeed": (340, 140),
    "CogVideoXT5Encode": (340, 190),
    "CogVideoXEmptyLatent": (320, 166),
    "CogVideoXImageToVideo": (320, 280),
    "CogVideoXVAEEncode": (320, 300),
    "CogVideoXSampler": (320, 290),
    "CogVideoXVAEDecode": (400, 106),
    "CogVideoXVideoPlayer": (400, 560),
    "CreateVideo": (400, 130),
    "ImageScaleBy": (400, 110),
    "big": (400, 106),
    "EmptyImage": (260, 166),
    "ImageCompositeMasked": (260, 170),
    "PreviewImage": (260, 230),
    "LoadImage": (280, 330),
    "GenerateTracks": (260, 400),
    "WanMoveVisualizeTracks": (300, 166),
    "source_video": (300, 440),
}


@dataclass
class Placement:
    """What placing boxes leads to: a corner for every node, a frame for every group."""

    sizes: dict[str, Point]
    corners: dict[str, Point] = field(default_factory=dict)
    groups: list[dict[str, Any]] = field(default_factory=list)

    def put(self, box: Box, x: float, y: float) -> Point:
        """Place a box with its upper left corner at (x, y); its size."""
        if isinstance(box, Boxes):
            return self._line_up(box, x, y)
        if isinstance(box, Group):
            return self._frame(box, x, y)
        self.corners[box] = (x, y + TITLE_BAR)
        width, height = self.sizes[box]
        return width, height + TITLE_BAR

    def _line_up(self, line: Boxes, x: float, y: float) -> Point:
        along, across = -GAP, 0.0
        for box in line.boxes:
            along += GAP
            width, height = self.put(box, x, y + along) if line.down else self.put(box, x + along, y)
            along += height if line.down else width
            across = max(across, width if line.down else height)
        return (across, along) if line.down else (along, across)

    def _frame(self, group: Group, x: float, y: float) -> Point:
        width, height = self.put(group.box, x + MARGIN, y + GROUP_BAR)
        size = width + 2 * MARGIN, height + group.room + GROUP_BAR + MARGIN
        self.groups.append({"title": group.title, "color": group.colour, "bounding": [x, y, *size]})
        return size


@dataclass(frozen=True)
class Boxes:
    """Boxes from left to right, or from top to bottom."""

    boxes: tuple[Box, ...]
    down: bool


@dataclass(frozen=True)
class Group:
    """A titled frame around a box, with room below it for what appears there during a run."""

    title: str
    colour: str
    box: Box
    room: float = 0


Box = str | Boxes | Group  # a string is a node, by its key in the API file


def column(*boxes: Box) -> Boxes:
    return Boxes(boxes, down=True)


def row(*boxes: Box) -> Boxes:
    return Boxes(boxes, down=False)
