"""Make the pictures of the help pages: each node on a real canvas among its neighbours, after a run where one helps.

python tools/make_help_pictures.py [node id ...]
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from tests.support import browser
from tests.support.host import Host
from tests.support.words import DOCS, INTERFACE
from tests.support.workflow_files import is_link

WIDEST = 760  # pixels of a picture
QUALITY = 78
MARGIN = 14
PROMPT = "A red ball moving to the right in front of the night sky."
DEMO_SIZE = {"width": 96, "height": 96, "length": 17}
VIDEO, MASK = "ball.mp4", "mask.png"
DONE_TIMEOUT = 180_000  # milliseconds

Graph = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Picture:
    """Nodes in columns, from left to right. `nodes` may have more, which are there only to run and are not shown."""

    nodes: Graph
    columns: tuple[tuple[str, ...], ...]
    run: bool = False


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


LOADERS: Graph = {
    "model": node("CogVideoXLoadModel", model_name="demo/text-to-video"),
    "vae": node("CogVideoXLoadVAE", vae_name="demo"),
    "t5": node("CogVideoXLoadT5", text_encoder_name="demo"),
}
PROMPTS: Graph = {
    "positive": node("CogVideoXT5Encode", clip=["t5", 0], text=PROMPT),
    "negative": node("CogVideoXT5Encode", clip=["t5", 0], text=""),
}
LATENT: Graph = {"latent": node("CogVideoXEmptyLatent", model=["model", 0], **DEMO_SIZE)}
SAMPLED: Graph = {
    "sampler": node(
        "CogVideoXSampler",
        model=["model", 0],
        positive=["positive", 0],
        negative=["negative", 0],
        latent_image=["latent", 0],
        seed=1,
        steps=25,
        cfg=3.0,
        sampler="dpm++ 2m sde",
        dynamic_cfg="published",
        denoise=1.0,
    )
}
DECODED: Graph = {
    "frames": node("CogVideoXVAEDecode", samples=["sampler", 0], vae=["vae", 0], tiling="auto"),
    "shown": node("PreviewImage", images=["frames", 0]),
}
TEXT_TO_VIDEO: Graph = {**LOADERS, **PROMPTS, **LATENT, **SAMPLED, **DECODED}
BALL: Graph = {
    "background": node("EmptyImage", width=96, height=96, color=0x101830),
    "ball": node("EmptyImage", width=24, height=24, color=0xD03030),
    "start": node(
        "ImageCompositeMasked", destination=["background", 0], source=["ball", 0], x=12, y=56, resize_source=False
    ),
    "end": node(
        "ImageCompositeMasked", destination=["background", 0], source=["ball", 0], x=60, y=12, resize_source=False
    ),
}


def between(class_type: str, **inputs: Any) -> Graph:
    """A node between model and sampler."""
    return {**TEXT_TO_VIDEO, "node": node(class_type, model=["model", 0], **inputs)} | {
        "sampler": {**SAMPLED["sampler"], "inputs": {**SAMPLED["sampler"]["inputs"], "model": ["node", 0]}}
    }


def conditioned(class_type: str, **inputs: Any) -> Graph:
    """A node between prompts and sampler."""
    given = {"positive": ["positive", 0], "negative": ["negative", 0], "vae": ["vae", 0], **DEMO_SIZE}
    links = {"positive": ["node", 0], "negative": ["node", 1], "latent_image": ["node", 2]}
    return {**LOADERS, **PROMPTS, **DECODED, "node": node(class_type, **given, **inputs)} | {
        "sampler": {**SAMPLED["sampler"], "inputs": {**SAMPLED["sampler"]["inputs"], **links}}
    }


IMAGE_TO_VIDEO: Graph = {
    **conditioned("CogVideoXImageToVideo", start_image=["start", 0], end_image=["end", 0]),
    **BALL,
    "model": node("CogVideoXLoadModel", model_name="demo/image-to-video"),
    "first": node("PreviewImage", images=["start", 0]),
    "last": node("PreviewImage", images=["end", 0]),
}
CUSTOM: Graph = {
    **TEXT_TO_VIDEO,
    "noise": node("RandomNoise", noise_seed=1),
    "guider": node("CFGGuider", model=["model", 0], positive=["positive", 0], negative=["negative", 0], cfg=3.0),
    "rule": node("CogVideoXSamplerSelect", sampler="dpm++ 2m sde", dynamic_cfg="published"),
    "sigmas": node("CogVideoXScheduler", model=["model", 0], steps=25),
    "sampler": node(
        "SamplerCustomAdvanced",
        noise=["noise", 0],
        guider=["guider", 0],
        sampler=["rule", 0],
        sigmas=["sigmas", 0],
        latent_image=["latent", 0],
    ),
}
FRAMES: Graph = {
    "video": node("LoadVideo", file=VIDEO),
    "parts": node("GetVideoComponents", video=["video", 0]),
}

THREE_LOADERS = Picture({**LOADERS, **PROMPTS}, (("model", "vae", "t5"), ("positive", "negative")))
CUSTOM_SAMPLING = Picture(CUSTOM, (("sigmas", "rule"), ("noise", "guider"), ("sampler",)))
PICTURES: dict[str, Picture] = {
    "CogVideoXLoadModel": Picture(TEXT_TO_VIDEO, (("model", "vae", "t5"), ("latent", "sampler"))),
    "CogVideoXLoadVAE": Picture(
        TEXT_TO_VIDEO | {"encode": node("CogVideoXVAEEncode", vae=["vae", 0])}, (("vae",), ("encode", "frames"))
    ),
    "CogVideoXLoadT5": THREE_LOADERS,
    "CogVideoXLoadLoRA": Picture(between("CogVideoXLoadLoRA", strength=0.8), (("model",), ("node",), ("sampler",))),
    "CogVideoXQuantizeINT8": Picture(between("CogVideoXQuantizeINT8"), (("model",), ("node",), ("sampler",))),
    "CogVideoXT5Encode": Picture(TEXT_TO_VIDEO, (("t5",), ("positive", "negative"), ("sampler",))),
    "CogVideoXEmptyLatent": Picture(TEXT_TO_VIDEO, (("model",), ("latent",), ("sampler",))),
    "CogVideoXImageToVideo": Picture(IMAGE_TO_VIDEO, (("first", "last"), ("node",), ("shown",)), run=True),
    "CogVideoXControl": Picture(
        {**conditioned("CogVideoXControl", control_video=["parts", 0]), **FRAMES},
        (("video", "parts"), ("node",), ("sampler",)),
    ),
    "CogVideoXInpaint": Picture(
        {
            **conditioned("CogVideoXInpaint", model=["model", 0], video=["parts", 0], mask=["mask", 0]),
            **FRAMES,
            "mask": node("LoadImageMask", image=MASK, channel="red"),
        },
        (("video", "mask"), ("parts",), ("node",)),
    ),
    "CogVideoXVAEEncode": Picture(
        TEXT_TO_VIDEO
        | FRAMES
        | {"encode": node("CogVideoXVAEEncode", pixels=["parts", 0], vae=["vae", 0])}
        | {
            "sampler": {**SAMPLED["sampler"], "inputs": {**SAMPLED["sampler"]["inputs"], "latent_image": ["encode", 0]}}
        },
        (("video", "parts"), ("vae", "encode"), ("sampler",)),
    ),
    "CogVideoXVAEDecode": Picture(TEXT_TO_VIDEO, (("vae",), ("frames",), ("shown",)), run=True),
    "CogVideoXSampler": Picture(TEXT_TO_VIDEO, (("model", "latent"), ("positive", "negative"), ("sampler",))),
    "CogVideoXScheduler": CUSTOM_SAMPLING,
    "CogVideoXSamplerSelect": CUSTOM_SAMPLING,
    "CogVideoXSpeed": Picture(between("CogVideoXSpeed", cache_budget=0.03), (("model",), ("node",), ("sampler",))),
    "CogVideoXVideoPlayer": Picture(
        TEXT_TO_VIDEO | {"player": node("CogVideoXVideoPlayer", images=["frames", 0], save_output=False)},
        (("frames",), ("player",)),
        run=True,
    ),
}

# Makes the nodes; those that are not shown are put far below.
DRAW = """
async ([nodes, first]) => {
  const graph = app.rootGraph
  graph.clear()
  const made = {}
  for (const {key, type, widgets} of nodes) {
    const node = LiteGraph.createNode(type)
    node.id = first + graph.nodes.length  // results are kept by id, those of former graphs too
    graph.add(node)
    node.pos = [0, 20000 + 600 * graph.nodes.length]
    for (const [name, value] of Object.entries(widgets)) node.widgets.find((one) => one.name === name).value = value
    made[key] = node
  }
  for (const {key, links} of nodes)
    for (const [name, [from, output]] of Object.entries(links)) {
      const input = made[key].inputs.findIndex((one) => one.name === name)
      if (!made[from]?.connect(output, made[key], input)) throw new Error(`${key}.${name} took no link`)
    }
  return Object.fromEntries(Object.entries(made).map(([key, node]) => [key, node.id]))
}
"""

# Puts columns side by side and shows them at their natural size; returns the rectangle of all in the window.
ARRANGE = """
([columns, margin]) => {
  const title = LiteGraph.NODE_TITLE_HEIGHT
  let left = 0, bottom = 0
  for (const column of columns) {
    const nodes = column.map((id) => app.rootGraph.getNodeById(id))
    let top = title
    for (const node of nodes) {
      node.pos = [left, top]
      top += node.size[1] + title + 26
    }
    left += Math.max(...nodes.map((node) => node.size[0])) + 50
    bottom = Math.max(bottom, top - title - 26)
  }
  const view = app.canvas.ds, box = app.canvas.canvas.getBoundingClientRect()
  view.scale = 1
  view.offset = [90, 140]
  app.canvas.setDirty(true, true)
  const size = {width: left - 50 + 2 * margin, height: bottom + 2 * margin}
  return {x: box.left + 90 - margin, y: box.top + 140 - margin, ...size}
}
"""

# Whether each of the nodes shows what it was given: its video plays, or its pictures are there.
SHOWN = """
(ids) => ids.every((id) => {
  const part = document.querySelector(`[data-node-id="${id}"]`)
  const videos = [...part.querySelectorAll('video')], images = [...part.querySelectorAll('img')]
  return videos.some((one) => one.readyState >= 2) || images.some((one) => one.complete && one.naturalWidth > 0)
})
"""


def provide_inputs(host: Host, scratch: Path) -> None:
    """A video of the demo model and a mask, for the nodes that load some."""
    saved = node("CogVideoXVideoPlayer", images=["frames", 0], fps=8.0, filename_prefix="ball", save_output=True)
    (video,) = host.run({**TEXT_TO_VIDEO, "player": saved}).files("player")
    host.upload_image(video, VIDEO)
    mask = Image.new("RGB", (96, 96))
    ImageDraw.Draw(mask).ellipse((20, 20, 76, 76), fill="white")
    mask.save(scratch / MASK)
    host.upload_image(scratch / MASK, MASK)


def draw(picture: Picture, canvas: browser.Canvas, target: Path, first_id: int) -> None:
    """Draw the graph, run it if that is asked for, and save what is shown of it."""
    seen = {key for column in picture.columns for key in column}
    wanted = [
        {
            "key": key,
            "type": made["class_type"],
            "widgets": {name: value for name, value in made["inputs"].items() if not is_link(value)},
            "links": {
                name: value
                for name, value in made["inputs"].items()
                if is_link(value) and (picture.run or value[0] in seen)
            },
        }
        for key, made in picture.nodes.items()
        if picture.run or key in seen
    ]
    ids = canvas.evaluate(DRAW, [wanted, first_id])
    columns = [[ids[key] for key in column] for column in picture.columns]
    canvas.page.wait_for_timeout(600)
    canvas.evaluate(ARRANGE, [columns, MARGIN])
    canvas.page.wait_for_timeout(600)
    if picture.run:
        canvas.run()
        outputs = ("PreviewImage", "CogVideoXVideoPlayer")
        shown = [
            ids[key] for column in picture.columns for key in column if picture.nodes[key]["class_type"] in outputs
        ]
        canvas.page.wait_for_function(SHOWN, arg=shown, timeout=DONE_TIMEOUT)
        canvas.page.wait_for_timeout(1500)
    canvas.evaluate(ARRANGE, [columns, MARGIN])  # sizes are known only once the nodes are drawn
    canvas.page.wait_for_timeout(600)
    rectangle = canvas.evaluate(ARRANGE, [columns, MARGIN])
    canvas.page.wait_for_timeout(400)
    raw = target.with_suffix(".png")
    canvas.page.screenshot(path=str(raw), clip=rectangle)
    with Image.open(raw) as image:
        image = image.convert("RGB")
        image.thumbnail((WIDEST, 10 * WIDEST), Image.Resampling.LANCZOS)
        image.save(target, quality=QUALITY, method=6)
    raw.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the pictures of the help pages.")
    parser.add_argument("nodes", nargs="*", default=list(INTERFACE), help="node ids; all if none is named")
    arguments = parser.parse_args()
    folder = DOCS / "images"
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, Host(Path(scratch)) as host, browser.chromium() as chromium:
        provide_inputs(host, Path(scratch))
        canvas = browser.Canvas(chromium, host)
        canvas.use_nodes_2(True)
        canvas.set_setting("Comfy.Minimap.Visible", False)
        for index, node_id in enumerate(arguments.nodes, start=1):
            target = folder / f"{node_id}.webp"
            draw(PICTURES[node_id], canvas, target, 100 * index)
            print(f"{target.name}: {target.stat().st_size:,} bytes")
        assert canvas.console_errors == []
        canvas.close()


if __name__ == "__main__":
    main()
