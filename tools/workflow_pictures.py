"""Thumbnails of the workflows: frames of real runs, or, where a run takes weights that must be downloaded, a card."""

from __future__ import annotations

from pathlib import Path

import av
from PIL import Image, ImageDraw, ImageFont

from tests.support.workflow_files import downloads

THUMBNAIL_SIZE = (384, 384)
THUMBNAIL_LIMIT = 30_000  # bytes


def thumbnail(left: Path, right: Path, target: Path) -> None:
    """Four frames as a small JPEG: of one video from its first to its last; of two, the first and last of each."""
    ones, others = frames_of(left), frames_of(right)
    if left == right:
        frames = [ones[index * (len(ones) - 1) // 3] for index in range(4)]
    else:
        frames = [ones[0], others[0], ones[-1], others[-1]]
    width, height = frames[0].size
    sheet = Image.new("RGB", (2 * width, 2 * height))
    for index, frame in enumerate(frames):
        sheet.paste(frame, (index % 2 * width, index // 2 * height))
    save_thumbnail(sheet.resize(THUMBNAIL_SIZE, Image.Resampling.LANCZOS), target)


def frames_of(video: Path) -> list[Image.Image]:
    with av.open(str(video)) as container:
        return [frame.to_image() for frame in container.decode(video=0)]


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
