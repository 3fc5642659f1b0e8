"""Write the canvas workflows of `workflows/` and their thumbnails from the API workflows in `workflows/api/`.

The API files are written by hand and say what runs; this file says how that looks on the canvas. A real ComfyUI with
its real frontend makes the canvas files, so they are what a user would have saved. The thumbnails are frames of a run,
or, where a run takes weights that must be downloaded, a card that says which.

    python tests/make_workflows.py [--no-thumbnails]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import uuid
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import av
import browser
from host import PACK_NAME, Host, frontend_version
from PIL import Image, ImageDraw, ImageFont
from workflow_files import (
    DOWNLOADS,
    OUR_PREFIX,
    TITLE_BAR,
    Download,
    api_workflow,
    canvas_file,
    downloads,
    is_link,
    thumbnail_file,
)
from workflow_files import NOTE as NOTE_TYPE

from cogvideox_core.variants import VARIANTS, Variant

THUMBNAIL_SIZE = (384, 384)
THUMBNAIL_LIMIT = 30_000  # bytes

Point = tuple[float, float]


# ---- where things stand: boxes in boxes

GROUP_BAR, MARGIN, GAP = 40, 20, 30
NOTE = "note"  # the note's key, beside those of the API file

# Width and height that hold the widgets in both renderers (Nodes 2.0 needs more height than the classic one), by the
# node's key or its class.
SIZES: dict[str, Point] = {
    "CogVideoXLoadModel": (340, 110),
    "CogVideoXLoadVAE": (340, 86),
    "CogVideoXLoadT5": (340, 86),
    "CogVideoXT5Encode": (340, 190),
    "CogVideoXEmptyLatent": (320, 166),
    "CogVideoXImageToVideo": (320, 280),
    "CogVideoXVAEEncode": (320, 106),
    "CogVideoXSampler": (320, 290),
    "CogVideoXVAEDecode": (400, 106),
    "CogVideoXVideoPlayer": (400, 560),
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
        size = width + 2 * MARGIN, height + GROUP_BAR + MARGIN
        self.groups.append({"title": group.title, "color": group.colour, "bounding": [x, y, *size]})
        return size


@dataclass(frozen=True)
class Boxes:
    """Boxes from left to right, or from top to bottom."""

    boxes: tuple[Box, ...]
    down: bool


@dataclass(frozen=True)
class Group:
    """A titled frame around a box."""

    title: str
    colour: str
    box: Box


Box = str | Boxes | Group  # a string is a node, by its key in the API file


def column(*boxes: Box) -> Boxes:
    return Boxes(boxes, down=True)


def row(*boxes: Box) -> Boxes:
    return Boxes(boxes, down=False)


# ---- the workflows

BLUE, GREEN, GREY, PURPLE, BROWN = "#3f789e", "#48754a", "#666666", "#6d4f8a", "#9a6b3c"

SETUP = column(
    Group("Models", BLUE, column("model", "vae", "text_encoder")),
    Group("Prompts", GREEN, column("positive", "negative")),
)
SAMPLING = Group("Sampling", GREY, column("latent", "sampler"))
RESULT = Group("Video", PURPLE, column("frames", "video"))


def from_inputs(title: str, inputs: Box) -> Boxes:
    """A workflow that starts from images: the note, below it what makes the images, then all the rest."""
    return row(column(NOTE, Group(title, BROWN, inputs)), SETUP, SAMPLING, RESULT)


MODEL_FOLDERS = (
    "### With the official models\n\nThe demo models know a few coloured shapes, backgrounds and motions. For real "
    "videos, download the **whole folder** of a model into *models/diffusers*, press **R**, choose it in all three "
    "loaders, and set 50 **steps**, 6 **cfg** and:"
)


@dataclass(frozen=True)
class Workflow:
    """A canvas workflow: its title, what its note says, and where its nodes stand."""

    title: str
    task: str
    about: str
    layout: Box
    note_size: Point
    more: str = ""

    @property
    def note(self) -> str:
        """Markdown: what the graph does, then which files it needs, or what to set for the official models."""
        if needed := downloads(self.title):
            return "\n\n".join(filter(None, [self.about, file_table(needed), self.more]))
        variants = [variant for variant in VARIANTS.values() if variant.task == self.task]
        return "\n\n".join(filter(None, [self.about, MODEL_FOLDERS, settings(variants), self.more]))


def file_table(needed: list[Download]) -> str:
    """Where the files of a workflow come from and where they go."""
    lines = [
        "### Files",
        "",
        "ComfyUI names what is missing and offers to download it. By hand:",
        "",
        "| file | folder in *models* | GB |",
        "|---|---|---|",
    ]
    lines += [f"| [{file.name}]({file.url}) | {file.directory} | {file.gigabytes:g} |" for file in needed]
    return "\n".join(lines)


def settings(variants: list[Variant]) -> str:
    """A table of what to set for these models."""
    lines = ["| model | width, height | length | fps | sampler | dynamic_cfg |", "|---|---|---|---|---|---|"]
    for variant in variants:
        use = variant.defaults
        sampler = {"ddim": "ddim", "dpm": "dpm++ 2m sde"}[use.sampler]
        lines.append(
            f"| [{variant.source.split('/')[1]}](https://huggingface.co/{variant.source}) | {use.width}, {use.height} "
            f"| {use.num_frames} | {use.fps} | {sampler} | {'published' if use.use_dynamic_cfg else 'off'} |"
        )
    return "\n".join(lines)


WORKFLOWS = [
    Workflow(
        title="Text to Video",
        task="text-to-video",
        about=(
            "Makes a video from a prompt. **Run** works at once: a small demo model comes with the nodes, for 96 × 96 "
            "pixels and 17 frames at 8 frames a second. The mp4 is saved in *output/CogVideoX*. It carries this "
            "workflow: drop it on the canvas to get the workflow back."
        ),
        more="They understand long English descriptions best: what is seen, how it moves, light, camera.",
        layout=row(NOTE, SETUP, SAMPLING, RESULT),
        note_size=(480, 360),
    ),
    Workflow(
        title="Image to Video",
        task="image-to-video",
        about=(
            "Makes a video that starts with a given image. **Run** works at once: a small demo model comes with the "
            "nodes, for 96 × 96 pixels and 17 frames at 8 frames a second, and the image is drawn by nodes.\n\n"
            "**Your own image:** put a **Load Image** node in place of the group *Start image* and connect it to "
            "*start_image*. Where its shape differs from width and height, *image_fit* decides: crop keeps the middle. "
            "The prompt should describe the image and what happens next."
        ),
        more=(
            "CogVideoX-5b-I2V makes this one size only. CogVideoX1.5-5B-I2V also makes others: the short side 768, the "
            "long one up to 1360, in multiples of 16."
        ),
        layout=from_inputs(
            "Start image (or Load Image)", row(column("background", "square"), column("start_image", "preview"))
        ),
        note_size=(590, 380),
    ),
    Workflow(
        title="First and Last Frame",
        task="image-to-video",
        about=(
            "Makes a video between two given images. **Run** works at once: a small demo model comes with the nodes, "
            "for 96 × 96 pixels and 17 frames at 8 frames a second, and the images are drawn by nodes.\n\n"
            "**Your own images:** put two **Load Image** nodes in place of the group *First and last image* and "
            "connect them to *start_image* and *end_image*. Where their shape differs from width and height, "
            "*image_fit* decides: crop keeps the middle. The prompt should describe the way from one to the other."
        ),
        more=(
            "The official models were trained on first images only. For a given last image there is "
            "[CogvideoX-Interpolation](https://huggingface.co/feizhengcong/CogvideoX-Interpolation), made from "
            "CogVideoX-5b-I2V: same settings."
        ),
        layout=from_inputs(
            "First and last image (or Load Image)",
            column(row("background", "square"), row("start_image", "end_image"), row("start_preview", "end_preview")),
        ),
        note_size=(590, 380),
    ),
    Workflow(
        title="Video to Video",
        task="text-to-video",
        about=(
            "Makes a new video out of another, led by a prompt. **Run** works at once: a small demo model comes with "
            "the nodes, for 96 × 96 pixels and 17 frames at 8 frames a second, and the source is drawn by nodes.\n\n"
            "**denoise** in the sampler says how much is made anew: 0.8 is usual, less stays nearer to the source.\n\n"
            "**Your own video:** put **Load Video** and **Get Video Components** in place of the group *Source video*, "
            "and connect *images* to *pixels*. The frames must have the size and length below: **Upscale Image** "
            "(it also scales down) and **Get Image from Batch** see to it."
        ),
        layout=from_inputs(
            "Source video (or Load Video)", row(column("background", "path"), column("source", "source_video"))
        ),
        note_size=(630, 400),
    ),
    Workflow(
        title="Text to Video CogVideoX1.5-5B",
        task="text-to-video",
        about=(
            "Makes a video of 5 seconds from a prompt, 1360 × 768 pixels at 16 frames a second, with the weights of "
            "[CogVideoX1.5-5B](https://huggingface.co/zai-org/CogVideoX1.5-5B) in one file each."
        ),
        more=(
            "Prompts: long English descriptions of what is seen, how it moves, light, camera. Too large for the card? "
            "Take a smaller **width** and **height** first, then **length**."
        ),
        layout=row(NOTE, SETUP, SAMPLING, RESULT),
        note_size=(560, 330),
    ),
    Workflow(
        title="Image to Video CogVideoX1.5-5B-I2V",
        task="image-to-video",
        about=(
            "Makes a video of 5 seconds that starts with your image, 1360 × 768 pixels at 16 frames a second, with the "
            "weights of [CogVideoX1.5-5B-I2V](https://huggingface.co/zai-org/CogVideoX1.5-5B-I2V) in one file each. "
            "Where the image has another shape, *image_fit* decides: crop keeps the middle."
        ),
        more=(
            "The prompt should describe the image and what happens next. Other sizes work too: the short side 768, the "
            "long one up to 1360, in multiples of 16."
        ),
        layout=from_inputs("Image", column("start_image")),
        note_size=(560, 350),
    ),
    Workflow(
        title="First and Last Frame CogVideoX-Interpolation",
        task="image-to-video",
        about=(
            "Makes a video of 6 seconds from one image to another, 720 × 480 pixels at 8 frames a second, with "
            "[CogvideoX-Interpolation](https://huggingface.co/feizhengcong/CogvideoX-Interpolation), which was made "
            "from CogVideoX-5b-I2V, in 4 bits. Where an image has another shape, *image_fit* decides: crop keeps the "
            "middle."
        ),
        more="The prompt should describe the way from one image to the other.",
        layout=from_inputs("First and last image", column("start_image", "end_image")),
        note_size=(600, 340),
    ),
]
NOTE_COLOURS = {"color": "#2a2e35", "bgcolor": "#1a1c20"}  # on its usual brown, links and tables are hard to read


# ---- drawing

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
    sizes = {key: SIZES.get(key) or SIZES[node["class_type"]] for key, node in prompt.items()}
    sizes[NOTE] = workflow.note_size
    placement = Placement(sizes)
    placement.put(workflow.layout, 0, 0)
    if set(placement.corners) != set(sizes):
        raise ValueError(f"{workflow.title}: the layout leaves out {set(sizes) - set(placement.corners)}")
    nodes = wanted_nodes(prompt, comfyui_version(canvas.host))
    nodes[NOTE] = {"type": NOTE_TYPE, "title": "Read Me", "widgets": {"text": workflow.note}, "links": {}}
    nodes[NOTE] |= {"id": len(nodes), **NOTE_COLOURS}
    for key, node in nodes.items():
        node |= {"pos": placement.corners[key], "size": sizes[key]}
    drawn = json.loads(canvas.evaluate(DRAW, {"nodes": list(nodes.values()), "groups": placement.groups}))
    drawn["id"] = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{PACK_NAME}/{workflow.title}"))
    drawn["extra"] = {"frontendVersion": frontend_version()}  # no view: the frontend then shows the whole graph
    return drawn


def wanted_nodes(prompt: dict[str, Any], comfyui: str) -> dict[str, dict[str, Any]]:
    """What DRAW is told of the nodes of an API file, by their keys; `comfyui` is its version."""
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


# ---- thumbnails


def thumbnail(video: Path, target: Path) -> None:
    """Four frames of a video, from its first to its last, as a small JPEG."""
    with av.open(str(video)) as container:
        frames = [frame.to_image() for frame in container.decode(video=0)]
    width, height = frames[0].size
    sheet = Image.new("RGB", (2 * width, 2 * height))
    for place in range(4):
        sheet.paste(frames[place * (len(frames) - 1) // 3], (place % 2 * width, place // 2 * height))
    save_thumbnail(sheet.resize(THUMBNAIL_SIZE, Image.Resampling.LANCZOS), target)


def card(title: str, target: Path) -> None:
    """What a workflow is for and how much must be downloaded, in words."""
    picture = Image.new("RGB", THUMBNAIL_SIZE, "#1b2430")
    draw = ImageDraw.Draw(picture)
    task, model = title.rsplit(" ", 1)
    total = sum(file.gigabytes for file in downloads(title))
    lines = [(task, 34, "#ffffff"), (model, 22, "#8ec9ff"), (f"{total:.0f} GB to download", 20, "#9aa7b5")]
    middle, top = THUMBNAIL_SIZE[0] // 2, 140
    for text, size, colour in lines:
        draw.text((middle, top), text, fill=colour, font=ImageFont.load_default(size), anchor="mm")
        top += 56
    save_thumbnail(picture, target)


def save_thumbnail(picture: Image.Image, target: Path) -> None:
    """As good a JPEG as the limit allows."""
    for quality in range(90, 20, -5):
        picture.save(target, quality=quality, optimize=True)
        if target.stat().st_size <= THUMBNAIL_LIMIT:
            return
    raise ValueError(f"{target.name} takes more than {THUMBNAIL_LIMIT:,} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the canvas workflows and their thumbnails.")
    parser.add_argument("--no-thumbnails", action="store_true", help="leave the thumbnails as they are")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Host(Path(folder)) as host, browser.chromium() as chromium:
        canvas = browser.Canvas(chromium, host)
        canvas.use_nodes_2(False)
        for workflow in WORKFLOWS:
            text = json.dumps(draw(workflow, canvas), indent=2, ensure_ascii=False)
            canvas_file(workflow.title).write_text(text + "\n", encoding="utf-8")
            print(canvas_file(workflow.title).name)
            if arguments.no_thumbnails:
                continue
            if downloads(workflow.title):
                card(workflow.title, thumbnail_file(workflow.title))
            else:
                (video,) = host.run(api_workflow(workflow.title)).files("video")
                thumbnail(video, thumbnail_file(workflow.title))
        canvas.check()
        canvas.close()


if __name__ == "__main__":
    main()
