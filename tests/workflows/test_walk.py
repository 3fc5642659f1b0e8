"""A newcomer's path through the real frontend, in both renderers, with the demo model and a real sampler."""

from __future__ import annotations

from pathlib import Path

from browser import Canvas
from walk import SCRUB_TO, Walk
from workflow_files import api_workflow, by_title


def test_a_newcomer_gets_a_video_and_its_workflow_back(open_page: Canvas, tmp_path: Path):
    walk = Walk(open_page)
    walk.open_template()
    walk.run()
    assert walk.live["pictures"] > 2
    assert any("25" in words for words in walk.live["words"]), "the sampler's steps are counted"
    assert walk.player.video("videoWidth") == 96
    walk.scrub()
    assert walk.player.label() == int(SCRUB_TO * 17)
    walk.compare()
    assert walk.page.locator("video").count() == 2
    made = open_page.graph_to_prompt()
    walk.save(tmp_path)
    walk.drop()
    assert by_title(open_page.graph_to_prompt()).keys() == by_title(api_workflow("Text to Video")).keys()
    assert made.keys() == open_page.graph_to_prompt().keys()
    open_page.check()
