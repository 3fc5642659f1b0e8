"""Clips as an old film: brown, as bright as before, and written as a folder that training reads."""

from __future__ import annotations

from pathlib import Path

import torch

from cogvideox_core.training.clips import FolderClips
from cogvideox_core.training.demo_world.world import make_scene, render
from tools.old_film import old_film, write_clips


def test_old_films_are_brown_and_as_bright_as_before() -> None:
    video = render(make_scene(7))
    film = old_film(video)
    red, green, blue = film
    assert (red >= green).all() and (green >= blue).all()
    assert film.min() >= 0 and film.max() <= 1
    pairs = torch.stack(
        [red.flatten(), (video * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1, 1)).sum(0).flatten()]
    )
    assert torch.corrcoef(pairs)[0, 1] > 0.999


def test_the_clips_are_a_folder_that_training_reads(tmp_path: Path) -> None:
    write_clips(tmp_path / "clips", 2)
    clips = FolderClips(tmp_path / "clips")
    assert len(clips.files) == 2 and "old" not in clips.caption(0, 0, 17)
    error = (clips.video(1, 17, 96, 96) - old_film(render(make_scene(1)))).square().mean()
    assert error < 1e-3, "30 dB are left after H.264 and its halved colours"
