"""A folder of videos with captions is a source of clips."""

from __future__ import annotations

from pathlib import Path

import pytest

from cogvideox_core.training.clips import FolderClips
from cogvideox_core.training.demo_world.world import make_scene, render
from cogvideox_core.videos.video_files import write_video


def test_a_folder_of_videos_is_a_source(tmp_path: Path) -> None:
    video = render(make_scene(3), 17, 64, 96)
    write_video(tmp_path / "one.mp4", video[None], 8)
    with pytest.raises(ValueError, match=r"one.mp4 has no caption \(1 in all\)"):
        FolderClips(tmp_path)
    (tmp_path / "one.txt").write_text("a star\n")
    clips = FolderClips(tmp_path)
    assert clips.caption(5, 0, 9) == "a star"
    error = (clips.video(0, 9, 64, 96) - video[:, :9]).square().mean()
    assert error < 1e-3, "30 dB are left after H.264 and its halved colours"
    assert (clips.video(0, 9, 64, 96) - video[:, 8:]).square().mean() > 2 * error, "they are not the first frames"
    assert clips.video(0, 9, 32, 32).shape == (3, 9, 32, 32)
    with pytest.raises(ValueError, match="has 17 frames; this bucket takes 25"):
        clips.video(0, 25, 32, 32)


def test_clips_are_sorted_by_name_and_start_again_after_the_last(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        (tmp_path / f"{name}.mp4").touch()
        (tmp_path / f"{name}.txt").write_text(f"clip {name}")
    clips = FolderClips(tmp_path)
    assert [clips.caption(index, index, 9) for index in range(4)] == ["clip a", "clip b", "clip c", "clip a"]
    assert clips.questions == {} and clips.answers(0) == {}
    assert clips.token_answers(0, 9, 32, 48, (3, 2, 3)).shape == (len(clips.token_questions), 3, 2, 3)


def test_a_folder_without_videos_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no .mp4; put the videos there, each with a .txt of the same name"):
        FolderClips(tmp_path / "nothing")
