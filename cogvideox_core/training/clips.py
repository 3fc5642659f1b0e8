"""Where training clips come from: what a source of clips offers, and a folder of videos with captions."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ..models.shapes import VideoSize
from ..models.transformer.positions import Grid
from ..models.variants import Defaults
from ..pipeline.conditioning import fit_frame
from ..videos.decoding import ENDINGS
from ..videos.frame_times import EVERY_FRAME
from ..videos.reading import count_frames, read_clip

logger = logging.getLogger("cogvideox")

_NAMED = 3  # files that a message names before it counts the rest


class ClipSource(Protocol):
    """Clips by number. The same arguments always give the same clip, caption and answers."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """What else decides how clips look, for whoever keeps them encoded; values that JSON can hold."""
        ...

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
    """Every video of a folder with its caption NAME.txt, sorted by name; after the last comes the first.

    A clip is the beginning of a video, at `fps` frames per second; None takes every frame of the file. Videos that are
    too short for a clip are left out of it: a last frame that is repeated would teach videos to freeze.

    Raises: ValueError if there is no video, or one without a caption.
    """

    questions: Mapping[str, Sequence[str]] = {}
    token_questions: Mapping[str, int] = {}

    def __init__(self, folder: str | Path, fps: float | None = Defaults.fps) -> None:
        self.fps = fps
        self.files = sorted(file for file in Path(folder).glob("*") if file.suffix.lower() in ENDINGS)
        if not self.files:
            endings = ", ".join(ENDINGS)
            raise ValueError(
                f"{folder} holds no video ({endings}); put the videos there, each with a .txt of the same name"
            )
        without = [file.name for file in self.files if not file.with_suffix(".txt").is_file()]
        if without:
            raise ValueError(
                f"{folder}: {without[0]} has no caption ({len(without)} in all); write a .txt of that name"
            )

    @property
    def settings(self) -> Mapping[str, Any]:
        """The frame rate."""
        return {"clip_fps": EVERY_FRAME if self.fps is None else self.fps}

    def check(self, lengths: Iterable[int]) -> None:
        """Say which videos are too short for clips of these numbers of frames.

        Raises: ValueError if all of them are.
        """
        for num_frames in sorted(set(lengths)):
            enough = self._long_enough(num_frames)
            short = [file.name for file in self.files if file not in enough]
            if not enough:
                raise ValueError(self._too_short(num_frames))
            if short:
                more = f" and {len(short) - _NAMED} more" if len(short) > _NAMED else ""
                logger.warning(
                    "%d of %d videos have no %d frames%s and are left out of clips that long: %s%s",
                    *(len(short), len(self.files), num_frames, self._rate, ", ".join(short[:_NAMED]), more),
                )

    def video(self, index: int, num_frames: int, height: int, width: int) -> Tensor:
        """[3, F, H, W] in [0, 1]: the first frames, cropped in the middle to the aspect ratio.

        Raises: ValueError if all videos are too short.
        """
        files = self._long_enough(num_frames)
        if not files:
            raise ValueError(self._too_short(num_frames))
        file = files[index % len(files)]
        fit = partial(fit_frame, size=VideoSize(height, width, num_frames), fit="crop")
        frames = read_clip(file, fps=self.fps, max_frames=num_frames, prepare=fit).frames[0]
        if frames.shape[1] < num_frames:
            raise ValueError(
                f"{file} gives {frames.shape[1]} frames of the {num_frames} it should have{self._rate}; take the file "
                "out of the folder, or make it anew"
            )
        return frames

    def caption(self, index: int, seed: int, num_frames: int) -> str:
        """The text of the file, whatever the seed is."""
        files = self._long_enough(num_frames) or self.files
        return files[index % len(files)].with_suffix(".txt").read_text(encoding="utf-8").strip()

    def answers(self, index: int) -> dict[str, str]:
        """None: nothing but the caption is known."""
        return {}

    def token_answers(self, index: int, num_frames: int, height: int, width: int, grid: Grid) -> Tensor:
        """None, as [0, T, h, w]."""
        return torch.empty(0, *grid, dtype=torch.int64)

    @cached_property
    def _lengths(self) -> dict[Path, int]:
        """Frames of each video at the rate of clips; 0 for a file that cannot be read, which is said."""
        return {file: self._length(file) for file in self.files}

    def _length(self, file: Path) -> int:
        try:
            return count_frames(file, self.fps)
        except ValueError as error:
            logger.warning("%s", error)
            return 0

    def _long_enough(self, num_frames: int) -> list[Path]:
        return [file for file in self.files if self._lengths[file] >= num_frames]

    @property
    def _rate(self) -> str:
        return "" if self.fps is None else f" at {self.fps:g} fps"

    def _too_short(self, num_frames: int) -> str:
        longest = max(self._lengths.values())
        if not longest:
            return f"none of the {len(self.files)} videos of {self.files[0].parent} can be read; give complete files"
        return (
            f"{self.files[0].parent}:{self._rate} the longest video has {longest} frames; this bucket takes "
            f"{num_frames}; write a num_frames of at most {longest} into the recipe, or take longer videos"
        )
