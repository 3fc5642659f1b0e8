"""Write the canvas workflows of `workflows/`, their thumbnails, and the blueprints of `subgraphs/`.

The API files in `workflows/api/` are written by hand and say what runs; `workflow_texts.py` says how that looks on the
canvas, `workflow_blueprints.py` what becomes of it as one node. A real ComfyUI with its real frontend makes the files,
so they are what a user would have saved. The thumbnails are frames of a run, or, where a run takes weights that must be
downloaded, a card that says which.

    python tools/make_workflows.py [--no-thumbnails]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support import browser
from tests.support.host import Host
from tests.support.workflow_files import (
    BLUEPRINT_FOLDER,
    api_workflow,
    blueprint_file,
    canvas_file,
    downloads,
    thumbnail_file,
)
from tools.workflow_blueprints import BLUEPRINTS, draw_blueprint
from tools.workflow_drawing import draw
from tools.workflow_pictures import card, thumbnail
from tools.workflow_texts import WORKFLOWS, Workflow


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the canvas workflows, their thumbnails, and the blueprints.")
    parser.add_argument("--no-thumbnails", action="store_true", help="leave the thumbnails as they are")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Host(Path(folder)) as host, browser.chromium() as chromium:
        canvas = browser.Canvas(chromium, host)
        canvas.use_nodes_2(False)
        for workflow in WORKFLOWS:
            write(canvas_file(workflow.title), draw(workflow, canvas))
            if not arguments.no_thumbnails:
                picture(workflow, lambda prompt: host.run(prompt).files("video")[0])
        BLUEPRINT_FOLDER.mkdir(exist_ok=True)
        for blueprint in BLUEPRINTS:
            write(blueprint_file(blueprint.name), draw_blueprint(blueprint, canvas))
        canvas.check()
        canvas.close()


def write(path: Path, drawn: dict[str, Any]) -> None:
    path.write_text(json.dumps(drawn, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(path.name)


def picture(workflow: Workflow, run: Callable[[dict[str, Any]], Path]) -> None:
    """The thumbnail; `run` makes the video of an API file."""
    target = thumbnail_file(workflow.title)
    if downloads(workflow.title):
        card(workflow.title, target)
        return
    prompt = api_workflow(workflow.title)
    video = left_half = run(prompt)
    if workflow.left_half is not None:
        key, name, value = workflow.left_half
        prompt[key]["inputs"][name] = value
        left_half = run(prompt)
    thumbnail(left_half, video, target)


if __name__ == "__main__":
    main()
