"""A newcomer's path through the real frontend, in both renderers, with the demo model and a real sampler."""

from __future__ import annotations

import json
from pathlib import Path

import av

from tests.support.browser import Canvas
from tests.support.walk import SCRUB_TO, TEMPLATE, Walk
from tests.support.workflow_files import api_workflow


def test_a_newcomer_gets_a_video_and_its_workflow_back(open_page: Canvas, tmp_path: Path):
    graph = api_workflow(TEMPLATE)
    size, steps = graph["latent"]["inputs"], graph["sampler"]["inputs"]["steps"]
    walk = Walk(open_page)
    walk.open_template()
    walk.run()
    pictures, words = walk.player.seen_live()
    assert len(pictures) > 2
    assert any(f"of {steps}" in one for one in words), "the sampler's steps are counted"
    assert (walk.player.video("videoWidth"), walk.player.video("videoHeight")) == (size["width"], size["height"])
    walk.scrub()
    assert walk.player.label() == int(SCRUB_TO * size["length"])
    walk.compare()
    assert walk.page.locator("video").count() == 2
    walk.save(tmp_path)
    walk.drop()
    assert open_page.graph_to_prompt() == prompt_of(walk.file), "the graph that made this file, with its seed"
    open_page.check()


def prompt_of(file: Path) -> dict:
    """What the mp4 says it was made by."""
    with av.open(str(file)) as container:
        return json.loads(container.metadata["prompt"])
