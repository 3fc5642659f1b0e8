"""Make the pictures of docs/first-video.md: a newcomer's path on the real canvas, in both renderers.

python tests/make_walk.py
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import browser
import provision
from host import Host
from PIL import Image
from walk import Walk

FOLDER = provision.REPO / "docs" / "first-video"
RENDERERS = {"nodes-2": True, "classic": False}
WIDTH = 1000  # pixels of a picture
QUALITY = 72


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for renderer in RENDERERS:
        take(renderer)


def take(renderer: str) -> None:
    """The whole path in one renderer, on a server of its own."""
    with tempfile.TemporaryDirectory() as folder, Host(Path(folder)) as host, browser.chromium() as chromium:
        canvas = browser.Canvas(chromium, host)
        canvas.use_nodes_2(RENDERERS[renderer])
        walk = Walk(canvas, lambda step: keep(canvas, FOLDER / f"{renderer}-{step}.jpg"))
        walk.open_template()
        walk.run()
        walk.scrub()
        walk.compare()
        walk.save(Path(folder))
        walk.drop()
        canvas.check()
        canvas.close()


def keep(canvas: browser.Canvas, path: Path) -> None:
    """What the window shows, as a small JPEG."""
    with Image.open(io.BytesIO(canvas.page.screenshot())) as picture:
        height = picture.height * WIDTH // picture.width
        picture.convert("RGB").resize((WIDTH, height), Image.Resampling.LANCZOS).save(
            path, quality=QUALITY, optimize=True
        )
    print(path.name, flush=True)


if __name__ == "__main__":
    main()
