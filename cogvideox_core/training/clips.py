"""Where training clips come from: what a source of clips offers, and a folder of videos with captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ..models.shapes import VideoSize
from ..models.transformer.positions import Grid
from ..pipeline.conditioning import video_pixels
from ..videos.video_io import read_video


class ClipSource(Protocol):
    """Clips by number. The same arguments always give the same clip, caption and answers."""

    @property
    def questions(self) -> Mapping[str, Sequence[str]]:
        """Questions about a clip, each with all its answers; empty where nothing but captions is known."""
        ...

    def video(self, index: int, num_frames: int, height: int, width: int) -> Tensor:
        """[3, F, H, W] in [0, 1]."""
        ...

    def caption(self, index: int, seed: int, num_frames: int) -> str:
        """What clip `index` shows; where a source has many captions, the seed picks one."""
        ...

    def answers(self, index: int) -> dict[str, str]:
        """The answer to each of `questions` about clip `index`."""
        ...

    @property
    def token_questions(self) -> Mapping[str, int]:
        """Questions about a token of a clip, each with the number of its answers; empty where nothing is known."""
        ...

    def token_answers(self, index: int, num_frames: int, height: int, width: int, grid: Grid) -> Tensor:
        """The answers to `token_questions` for each token of a clip: int64 [Q, T, h, w] for a grid (T, h, w)."""
        ...


class FolderClips:
    """Every NAME.mp4 of a folder with its caption NAME.txt, sorted by name; after the last comes the first.

    Raises: ValueError if there is no video, or one without a caption.
    """

    questions: Mapping[str, Sequence[str]] = {}
    token_questions: Mapping[str, int] = {}

    def __init__(self, folder: str | Path) -> None:
        self.files = sorted(Path(folder).glob("*.mp4"))
        if not self.files:
            raise ValueError(f"{folder} holds no .mp4; put the videos there, each with a .txt of the same name")
        without = [file.name for file in self.files if not file.with_suffix(".txt").is_file()]
        if without:
            raise ValueError(
                f"{folder}: {without[0]} has no caption ({len(without)} in all); write a .txt of that name"
            )

    def video(self, index: int, num_frames: int, height: int, width: int) -> Tensor:
        """[3, F, H, W] in [0, 1]: the first frames, cropped in the middle to the aspect ratio.

        Raises: ValueError if there are too few frames.
        """
        file = self._file(index)
        frames, _ = read_video(file, max_frames=num_frames)
        if frames.shape[2] < num_frames:
            raise ValueError(
                f"{file} has {frames.shape[2]} frames; this bucket takes {num_frames}; take the file out of the "
                "folder, or write a smaller num_frames into the recipe"
            )
        pixels = video_pixels(frames, VideoSize(height, width, num_frames), fit="crop")
        return (pixels[0] + 1) / 2

    def caption(self, index: int, seed: int, num_frames: int) -> str:
        """The text of the file, whatever the seed is."""
        return self._file(index).with_suffix(".txt").read_text(encoding="utf-8").strip()

    def answers(self, index: int) -> dict[str, str]:
        """None: nothing but the caption is known."""
        return {}

    def token_answers(self, index: int, num_frames: int, height: int, width: int, grid: Grid) -> Tensor:
        """None, as [0, T, h, w]."""
        return torch.empty(0, *grid, dtype=torch.int64)

    def _file(self, index: int) -> Path:
        return self.files[index % len(self.files)]
