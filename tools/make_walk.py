"""Make the pictures of docs/first-video.md: a newcomer's path on the real canvas, in both renderers.

python tools/make_walk.py
"""

from __future__ import annotations

import argparse
import io
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import FloatRect

from tests import provision
from tests.support import browser
from tests.support.host import Host
from tests.support.walk import Walk

FOLDER = provision.REPO / "docs" / "first-video"
RENDERERS = {"nodes-2": True, "classic": False}
WHOLE = ("empty", "templates")  # steps that the whole window is shown of
WORKFLOW: FloatRect = {"x": 190, "y": 40, "width": 1400, "height": 850}  # pixels of the window
SETTLING = 1200  # milliseconds until what moves into or out of the window has
WIDTH = 1000  # pixels of a picture
QUALITY = 72


def main() -> None:
    argparse.ArgumentParser(description="Make the pictures of docs/first-video.md, and write them there.").parse_args()
    FOLDER.mkdir(exist_ok=True)
    for renderer in RENDERERS:
        take(renderer)


def take(renderer: str) -> None:
    """The whole path in one renderer, on a server of its own."""
    with tempfile.TemporaryDirectory() as folder, Host(Path(folder)) as host, browser.chromium() as chromium:
        canvas = browser.Canvas(chromium, host)
        canvas.use_nodes_2(RENDERERS[renderer])
        walk = Walk(canvas, lambda step: keep(canvas, renderer, step))
        walk.open_template()
        walk.run()
        walk.scrub()
        walk.compare()
        walk.save(Path(folder))
        walk.drop()
        canvas.check()
        canvas.close()


def keep(canvas: browser.Canvas, renderer: str, step: str) -> None:
    """What the window shows, or only the part with the workflow, as a small JPEG."""
    if step != "running":
        canvas.page.wait_for_timeout(SETTLING)
    path = FOLDER / f"{renderer}-{step}.jpg"
    with Image.open(io.BytesIO(canvas.page.screenshot(clip=None if step in WHOLE else WORKFLOW))) as picture:
        height = picture.height * WIDTH // picture.width
        picture.convert("RGB").resize((WIDTH, height), Image.Resampling.LANCZOS).save(
            path, quality=QUALITY, optimize=True
        )
    print(path.name, flush=True)


if __name__ == "__main__":
    main()
