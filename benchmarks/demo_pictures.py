"""Pictures of the demo models for the README and the docs, made by the models themselves.

    python benchmarks/demo_pictures.py

Writes docs/demo.gif (four prompts side by side), docs/demo-prompts.png (twelve prompts, five frames of each) and
docs/demo-training/curves.png (the losses of the runs that made the models). Needs the extra `benchmarks`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from cogvideox_core import load_pipeline
from cogvideox_core.demo import DEMO_GUIDANCE, DEMO_STEPS
from cogvideox_core.training.demo_world.world import FPS

DOCS = Path(__file__).resolve().parents[1] / "docs"
PROMPTS = (
    "a red ball bouncing in front of a meadow",
    "a white star moving right in front of the night sky",
    "a purple square growing in front of a sunset",
    "an orange triangle moving up in front of a desert",
    "a yellow ring going in a circle in front of the sea",
    "a blue star shrinking in front of a wooden wall",
    "a big pink box slides to the left over the ocean",
    "a small green disc falls in front of planks",
    "at the night, a golden star jumps up and down",
    "a white donut standing still in front of a meadow",
    "a crimson pyramid orbits against the evening sky",
    "a blue ball and a red square, both standing still, in front of a desert",
)
SCALE = 2  # of a pixel in the pictures
GAP = 6
CAPTION = 16


def main() -> None:
    argparse.ArgumentParser(description="Make the pictures of the demo models, and write them into docs/.").parse_args()
    videos = make_videos()
    _write_gif(videos[:4], DOCS / "demo.gif")
    _write_sheet(videos, DOCS / "demo-prompts.png")
    _draw_curves(DOCS / "demo-training")


def make_videos() -> list[Tensor]:
    """[3, F, H, W] for each prompt, as `cogvideox PROMPT --seed 1` makes it."""
    pipeline = load_pipeline(dtype=torch.float32, device="cpu")
    defaults = pipeline.variant.defaults
    videos = []
    for prompt in PROMPTS:
        video = pipeline(
            prompt,
            num_inference_steps=DEMO_STEPS,
            guidance_scale=DEMO_GUIDANCE,
            use_dynamic_cfg=defaults.use_dynamic_cfg,
            sampler=defaults.sampler,
            generator=torch.Generator().manual_seed(1),
        )
        videos.append(video[0])
    return videos


def _picture(frame: Tensor) -> Image.Image:
    """[3, H, W] in [0, 1], enlarged."""
    pixels = (frame * 255).round().byte().permute(1, 2, 0).numpy()
    image = Image.fromarray(pixels)
    return image.resize((image.width * SCALE, image.height * SCALE), Image.Resampling.BICUBIC)


def _write_gif(videos: list[Tensor], path: Path) -> None:
    frames = []
    for index in range(videos[0].shape[1]):
        pictures = [_picture(video[:, index]) for video in videos]
        width = sum(picture.width + GAP for picture in pictures) - GAP
        frame = Image.new("RGB", (width, pictures[0].height), "white")
        for column, picture in enumerate(pictures):
            frame.paste(picture, (column * (picture.width + GAP), 0))
        frames.append(frame.quantize(128, dither=Image.Dither.NONE))
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=1000 // FPS, loop=0, optimize=True)


def _write_sheet(videos: list[Tensor], path: Path) -> None:
    """Two columns of prompts, with the first, the last and three frames between."""
    shown = [0, 4, 8, 12, 16]
    side = videos[0].shape[-1] * SCALE
    width, height = len(shown) * (side + GAP), side + CAPTION + GAP
    sheet = Image.new("RGB", (2 * width, height * -(-len(videos) // 2)), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (prompt, video) in enumerate(zip(PROMPTS, videos, strict=True)):
        left, top = index % 2 * width, index // 2 * height
        draw.text((left, top + 2), prompt, fill="black")
        for column, frame in enumerate(shown):
            sheet.paste(_picture(video[:, frame]), (left + column * (side + GAP), top + CAPTION))
    sheet.save(path, optimize=True)


def _draw_curves(folder: Path) -> None:
    import matplotlib  # pyright: ignore[reportMissingImports]

    matplotlib.use("Agg")
    from matplotlib import pyplot  # pyright: ignore[reportMissingImports]

    figure, axes = pyplot.subplots(1, 3, figsize=(15, 4), layout="constrained")
    for axis, model in zip(axes, ("autoencoder", "text-to-video", "image-to-video"), strict=True):
        done = 0
        for log in sorted(folder.glob(f"{model}*/log.jsonl")):
            lines = [json.loads(line) for line in log.read_text().splitlines()]
            axis.plot([done + line["step"] for line in lines], [line["loss"] for line in lines], label=log.parent.name)
            done += lines[-1]["step"]
        axis.set(title=model, xlabel="step", ylabel="loss", yscale="log")
        axis.legend()
    figure.savefig(folder / "curves.png", dpi=80)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
