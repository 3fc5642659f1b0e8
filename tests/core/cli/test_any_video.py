"""Sixty random videos through the command: size, length, frame rate, rotation and alpha as they come."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cogvideox_core.cli import main as cli
from cogvideox_core.demo import DEMO_MODEL
from cogvideox_core.models.shapes import longest
from cogvideox_core.pipeline.folder import ModelFolder
from cogvideox_core.videos.video_io import read_video
from tests.support.any_videos import COUNT, assert_shows, drawn

SIDE = 96  # of the demo model's videos, where no size is asked for


@pytest.mark.parametrize("seed", range(COUNT))
def test_any_video_of_the_command_is_made_anew_or_refused(
    tmp_path: Path, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """One step over the least noise, so that the new video shows the old one."""
    video, output = drawn(seed), tmp_path / "out.mp4"
    source, folder = video.write(tmp_path / "clip"), ModelFolder.open(DEMO_MODEL)
    arguments = ["a red ball", "--video", str(source), "--strength", "0.02", "--steps", "50", "--guidance", "1"]
    arguments += ["--fit", video.fit, "--video-fps", video.rate, "-o", str(output), "--seed", "0"]
    for option in ("width", "height"):
        arguments += [f"--{option}", str(getattr(video, option))] if getattr(video, option) else []
    arguments += ["--frames", str(video.length)] if video.length else []
    code = cli.main(arguments)
    width, height, said = video.width or SIDE, video.height or SIDE, capsys.readouterr().err
    if faults := video.faults(width, height):
        assert code == 2 and not output.exists(), video
        assert re.search("|".join(faults), said) and said.count("\n") == 1, f"{said} for {video}"
        return
    assert code == 0, f"{said} for {video}"
    frames, fps = read_video(output)
    assert frames.shape[3:] == (height, width)
    assert fps == pytest.approx({"model": 8, "every": float(video.fps)}.get(video.rate) or float(video.rate), rel=1e-3)
    assert_shows(frames, video, video.taken(video.length or longest(folder.transformer.config, folder.variant)))
