"""The example workflows as files: canvas and thumbnail in `workflows/`, API file in `workflows/api/`; and the
blueprints in `subgraphs/`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from tests import provision

FOLDER = provision.REPO / "workflows"
BLUEPRINT_FOLDER = provision.REPO / "subgraphs"
OUR_PREFIX = "CogVideoX"
NOTE = "MarkdownNote"
TITLE_BAR = 30  # height of a node's title, which is above its position

DEMO_TITLES = (  # need nothing downloaded
    "Text to Video",
    "Image to Video",
    "First and Last Frame",
    "Video to Video",
    "LoRA",
    "INT8",
    "Tiled Big Frame",
    "Faster",
)
FILE_TITLES = (  # for files that ComfyUI offers to download
    "Text to Video CogVideoX1.5-5B",
    "Image to Video CogVideoX1.5-5B-I2V",
    "First and Last Frame CogVideoX-Interpolation",
    "Video to Video CogVideoX1.5-5B",
    "LoRA CogVideoX-5B-I2V",
    "INT8 CogVideoX1.5-5B",
    "Tiled Big Frame CogVideoX1.5-5B",
    "Faster CogVideoX1.5-5B",
)
TITLES = DEMO_TITLES + FILE_TITLES
BLUEPRINT_NAMES = ("Text to Video (CogVideoX)", "Image to Video (CogVideoX)")


class Download(NamedTuple):
    """A model file on the hub: its repository, the folder of ComfyUI it belongs in, its size in 10^9 bytes."""

    name: str
    repository: str
    directory: str
    gigabytes: float

    @property
    def url(self) -> str:
        return f"https://huggingface.co/{self.repository}/resolve/main/{self.name}"

    @property
    def metadata(self) -> dict[str, str]:
        """What ComfyUI reads from `properties.models` of a node."""
        return {"name": self.name, "url": self.url, "directory": self.directory}


# The frontend offers single files only, so these are the official weights as repacked into one file each.
_REPACKED = "Kijai/CogVideoX-comfy"
DOWNLOADS = {
    file.name: file
    for file in (
        Download("CogVideoX_1_5_5b_T2V_bf16.safetensors", _REPACKED, "diffusion_models", 11.1),
        Download("CogVideoX_1_5_5b_I2V_bf16.safetensors", _REPACKED, "diffusion_models", 11.1),
        Download("CogVideoX_5b_I2V_GGUF_Q4_0.safetensors", "Kijai/CogVideoX_GGUF", "diffusion_models", 3.54),
        Download("CogVideoX_5b_Interpolation_GGUF_Q4_0.safetensors", "Kijai/CogVideoX_GGUF", "diffusion_models", 3.54),
        Download("DimensionX_orbit_left_lora_rank256_bf16.safetensors", "Kijai/CogVideoX-loras", "loras", 0.529),
        Download("cogvideox_vae_bf16.safetensors", _REPACKED, "vae", 0.431),
        Download("t5xxl_fp16.safetensors", "comfyanonymous/flux_text_encoders", "text_encoders", 9.79),
    )
}


def canvas_file(title: str) -> Path:
    return FOLDER / f"{title}.json"


def thumbnail_file(title: str) -> Path:
    return FOLDER / f"{title}.jpg"


def api_file(title: str) -> Path:
    return FOLDER / "api" / f"{title.lower().replace(' ', '-')}.json"


def blueprint_file(name: str) -> Path:
    return BLUEPRINT_FOLDER / f"{name}.json"


def blueprint(name: str) -> dict[str, Any]:
    return json.loads(blueprint_file(name).read_text(encoding="utf-8"))


def downloads(title: str) -> list[Download]:
    """The files a workflow needs, in the order of its nodes."""
    values = [value for node in api_workflow(title).values() for value in node["inputs"].values()]
    return [DOWNLOADS[value] for value in values if isinstance(value, str) and value in DOWNLOADS]


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
