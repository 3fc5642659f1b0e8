"""A folder of videos with captions is a source of clips: of any ending and rate, upright, and long enough."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from torch import Tensor

from cogvideox_core.training.clips import FolderClips
from cogvideox_core.training.demo_world.world import make_scene, render
from cogvideox_core.videos.video_files import write_video
from tests.support.counted_videos import KINDS, MATRICES, numbers_of, write_counted


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
    told = "at 8 fps the longest video has 17 frames; this bucket takes 25; write a num_frames of at most 17 into the"
    for refused in (lambda: clips.video(0, 25, 32, 32), lambda: clips.check([9, 25])):
        with pytest.raises(ValueError, match=told):
            refused()


def test_clips_are_sorted_by_name_and_start_again_after_the_last(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        (tmp_path / f"{name}.mp4").touch()
        (tmp_path / f"{name}.txt").write_text(f"clip {name}")
    clips = FolderClips(tmp_path)
    assert [clips.caption(index, index, 9) for index in range(4)] == ["clip a", "clip b", "clip c", "clip a"]
    assert clips.questions == {} and clips.answers(0) == {}
    assert clips.token_answers(0, 9, 32, 48, (3, 2, 3)).shape == (len(clips.token_questions), 3, 2, 3)


def test_a_folder_without_videos_is_refused(tmp_path: Path) -> None:
    told = r"holds no video \(.mp4, .mov, .*\); put the videos there, each with a .txt of the same name"
    with pytest.raises(ValueError, match=told):
        FolderClips(tmp_path / "nothing")


def captioned(path: Path, count: int, fps: float, **more: object) -> Path:
    """A video of numbered pictures whose caption is its name."""
    path.with_suffix(".txt").write_text(path.name)
    return write_counted(path, count, fps, **more)


def numbers(clip: Tensor) -> list[int]:
    return numbers_of(clip[None])


@pytest.mark.parametrize("fps", [8, 16])
def test_a_clip_of_30_fps_is_taken_by_time(tmp_path: Path, fps: int) -> None:
    """Six seconds are 49 frames of a 1.0 model, and more than five the 81 of a 1.5 model."""
    captioned(tmp_path / "phone.mp4", 180, 30)
    count = 49 if fps == 8 else 81
    clip = FolderClips(tmp_path, fps).video(0, count, 64, 96)
    assert numbers(clip) == [min(i * 30 // fps, 179) for i in range(count)]
    assert numbers(FolderClips(tmp_path).video(0, 9, 64, 96)) == [i * 30 // 8 for i in range(9)]
    assert numbers(FolderClips(tmp_path, None).video(0, 9, 64, 96)) == list(range(9))


@pytest.mark.parametrize("ending", [*KINDS, ".MOV", ".Webm", ".m4v"])
def test_videos_of_every_ending_are_clips(ending: str, tmp_path: Path) -> None:
    kind = KINDS.get(ending.lower(), KINDS[".mp4"])
    captioned(tmp_path / f"A{ending}", 9, 8, kind=kind)
    (tmp_path / "notes.pdf").touch()
    clips = FolderClips(tmp_path)
    assert numbers(clips.video(0, 9, 64, 96)) == list(range(9)) and clips.caption(0, 0, 9) == f"A{ending}"


def test_a_clip_of_a_phone_stands_upright(tmp_path: Path) -> None:
    captioned(tmp_path / "phone.mp4", 9, 8, matrix=MATRICES["on its head"])
    clip = FolderClips(tmp_path).video(0, 9, 64, 96)  # [3, F, H, W], so what was stored upright lies on its head
    assert numbers(clip.flip(2, 3)) == list(range(9))


def test_short_videos_are_left_out_with_a_count(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, count in (("a", 17), ("b", 5), ("c", 9), ("d", 4), ("e", 3), ("f", 2)):
        captioned(tmp_path / f"{name}.mp4", count, 8)
    clips = FolderClips(tmp_path)
    with caplog.at_level(logging.WARNING, logger="cogvideox"):
        clips.check({9, 1, 17})
    assert [record.getMessage() for record in caplog.records] == [
        "4 of 6 videos have no 9 frames at 8 fps and are left out of clips that long: b.mp4, d.mp4, e.mp4 and 1 more",
        "5 of 6 videos have no 17 frames at 8 fps and are left out of clips that long: b.mp4, c.mp4, d.mp4 and 2 more",
    ]
    for num_frames, names in ((9, "acac"), (17, "aaaa"), (1, "abcd")):
        assert [clips.caption(index, 0, num_frames)[0] for index in range(4)] == list(names)
        lengths = [len(numbers(clips.video(index, num_frames, 64, 96))) for index in range(4)]
        assert lengths == [num_frames] * 4


def test_a_damaged_video_is_left_out_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    captioned(tmp_path / "a.mp4", 9, 8)
    whole = captioned(tmp_path / "b.mp4", 9, 8)
    whole.write_bytes(whole.read_bytes()[:500])
    clips = FolderClips(tmp_path)
    with caplog.at_level(logging.WARNING, logger="cogvideox"):
        clips.check([9])
    assert "b.mp4 cannot be read as a video; give a complete video file" in caplog.records[0].getMessage()
    assert "1 of 2 videos have no 9 frames at 8 fps and are left out" in caplog.records[1].getMessage()
    assert [clips.caption(index, 0, 9) for index in range(2)] == ["a.mp4", "a.mp4"]
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(ValueError, match="none of the 2 videos of .* can be read; give complete files"):
        FolderClips(tmp_path).check([9])


def test_encoded_clips_know_their_rate(tmp_path: Path) -> None:
    captioned(tmp_path / "a.mp4", 9, 8)
    assert FolderClips(tmp_path).settings == {"clip_fps": 8}
    assert FolderClips(tmp_path, None).settings == {"clip_fps": "every"}
