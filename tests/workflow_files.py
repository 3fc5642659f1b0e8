"""The example workflows as files: canvas and thumbnail in `workflows/`, API file in `workflows/api/`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import provision

FOLDER = provision.REPO / "workflows"
OUR_PREFIX = "CogVideoX"
NOTE = "MarkdownNote"
TITLE_BAR = 30  # height of a node's title, which stands above its position
TITLES = ("Text to Video", "Image to Video", "First and Last Frame", "Video to Video")


def canvas_file(title: str) -> Path:
    return FOLDER / f"{title}.json"


def thumbnail_file(title: str) -> Path:
    return FOLDER / f"{title}.jpg"


def api_file(title: str) -> Path:
    return FOLDER / "api" / f"{title.lower().replace(' ', '-')}.json"


def canvas_workflow(title: str) -> dict[str, Any]:
    return json.loads(canvas_file(title).read_text(encoding="utf-8"))


def api_workflow(title: str) -> dict[str, dict[str, Any]]:
    return json.loads(api_file(title).read_text(encoding="utf-8"))


def note(title: str) -> str:
    """The Markdown of a workflow's note."""
    (found,) = [node for node in canvas_workflow(title)["nodes"] if node["type"] == NOTE]
    return found["widgets_values"][0]


def is_link(value: Any) -> bool:
    """Whether an input of an API file is a link, [node key, output]."""
    return isinstance(value, list)


def by_title(prompt: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A prompt without its node keys: nodes and the sources of links go by their titles, which are unique."""
    titles = {key: node["_meta"]["title"] for key, node in prompt.items()}
    assert len(set(titles.values())) == len(prompt), f"a title is there twice: {sorted(titles.values())}"
    return {
        titles[key]: {
            "class_type": node["class_type"],
            "inputs": {
                name: [titles[str(value[0])], value[1]] if is_link(value) else value
                for name, value in node["inputs"].items()
            },
        }
        for key, node in prompt.items()
    }


def overlapping(places: Mapping[str, Sequence[float]]) -> list[tuple[str, str]]:
    """Pairs of names whose rectangles (left, top, right, bottom) have an area in common."""
    return [
        (one, other)
        for one, other in combinations(places, 2)
        if places[one][0] < places[other][2]
        and places[other][0] < places[one][2]
        and places[one][1] < places[other][3]
        and places[other][1] < places[one][3]
    ]
