"""Where training clips come from: the rendered world, or a folder of videos with captions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ..conditioning import video_pixels
from ..demo.captions import caption
from ..demo.world import BACKGROUNDS, CELL, COLOURS, MOTIONS, SHAPES, SIZES, make_scene, render, tracks
from ..positions import Grid
from ..shapes import VideoSize
from ..video_io import read_video


class ClipSource(Protocol):
    """Clips by number; everything is a pure function of its arguments."""

    @property
    def questions(self) -> Mapping[str, Sequence[str]]:
        """What can be asked about a clip, with all answers; empty where nothing is known but the caption."""
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
        """What can be asked about a place of a clip, with the number of answers; empty where nothing is known."""
        ...

    def token_answers(self, index: int, num_frames: int, height: int, width: int, grid: Grid) -> Tensor:
        """The answers to `token_questions` for each token of a clip: int64 [Q, T, h, w] for a grid (T, h, w)."""
        ...


_FARTHEST = 11  # cells from a token to an object that are told apart
_RADII = 13  # classes of radii, from an eighth of a large object's to twice that
_ABSENT = "no such object"
_LOOKS = {"colour": tuple(COLOURS), "motion": MOTIONS, "size": tuple(SIZES)}


class WorldClips:
    """Scenes of the small world, without the combinations held out for testing.

    No scene has two objects of one shape, so what a shape looks like and does says everything about its objects.
    """

    questions: Mapping[str, Sequence[str]] = {
        **{f"{shape}, {what}": (_ABSENT, *words) for shape in SHAPES for what, words in _LOOKS.items()},
        "background": tuple(BACKGROUNDS),
    }

    def video(self, index: int, num_frames: int, height: int, width: int) -> Tensor:
        return render(make_scene(index), num_frames, height, width)

    token_questions: Mapping[str, int] = {
        "shape": len(SHAPES),
        "colour": len(COLOURS),
        "column": 2 * _FARTHEST + 1,
        "row": 2 * _FARTHEST + 1,
        "radius": _RADII,
    }

    def caption(self, index: int, seed: int, num_frames: int) -> str:
        return caption(make_scene(index), seed, moving=num_frames > 1)

    def answers(self, index: int) -> dict[str, str]:
        scene = make_scene(index)
        things = {thing.shape: thing for thing in scene.things}
        looks = {
            f"{shape}, {what}": getattr(things[shape], what) if shape in things else _ABSENT
            for shape in SHAPES
            for what in _LOOKS
        }
        return {**looks, "background": scene.background}

    def token_answers(self, index: int, num_frames: int, height: int, width: int, grid: Grid) -> Tensor:
        """About the object nearest to a token: what it is, how many cells away, and how large."""
        return _nearest_object(index, num_frames, height, width, grid).long()


@lru_cache(maxsize=65_536)
def _nearest_object(index: int, num_frames: int, height: int, width: int, grid: Grid) -> Tensor:
    """[shape, colour, column, row, radius] of the object nearest to each token, int8 [5, T, h, w]."""
    scene = make_scene(index)
    frames, rows, columns = grid
    moments = [round(token * (num_frames - 1) / max(1, frames - 1)) for token in range(frames)]
    places = torch.tensor([[track[moment] for moment in moments] for track in tracks(scene, num_frames, height, width)])
    x, y, radius = places.unbind(dim=2)  # [objects, T]
    unit = min(height, width)
    across = x[..., None] - (torch.arange(columns) + 0.5) * (width / columns / unit)  # [objects, T, w]
    down = y[..., None] - (torch.arange(rows) + 0.5) * (height / rows / unit)  # [objects, T, h]
    shape = (len(scene.things), *grid)
    across, down = across[:, :, None].expand(shape), down[..., None].expand(shape)
    what = torch.tensor([[SHAPES.index(t.shape), list(COLOURS).index(t.colour)] for t in scene.things])
    size = (math.log2(8) + (radius / SIZES["large"]).log2()) * _RADII / math.log2(16)
    answers = torch.stack(
        [
            what[:, 0, None, None, None].expand(shape),
            what[:, 1, None, None, None].expand(shape),
            (across / CELL).round().clamp(-_FARTHEST, _FARTHEST) + _FARTHEST,
            (down / CELL).round().clamp(-_FARTHEST, _FARTHEST) + _FARTHEST,
            size.round().clamp(0, _RADII - 1)[..., None, None].expand(shape),
        ]
    )
    nearest = torch.maximum(across.abs(), down.abs()).argmin(dim=0)
    return answers.gather(1, nearest.expand(len(answers), 1, *grid))[:, 0].to(torch.int8)


class FolderClips:
    """Every NAME.mp4 of a folder with its caption NAME.txt, in the order of their names, again and again.

    Raises: ValueError if there is no video, or one without a caption.
    """

    questions: Mapping[str, Sequence[str]] = {}

    def __init__(self, folder: str | Path) -> None:
        self.files = sorted(Path(folder).glob("*.mp4"))
        if not self.files:
            raise ValueError(f"{folder} holds no .mp4; put the videos there, each with a .txt of the same name")
        silent = [file.name for file in self.files if not file.with_suffix(".txt").is_file()]
        if silent:
            raise ValueError(f"{folder}: {silent[0]} has no caption ({len(silent)} in all); write a .txt of that name")

    def video(self, index: int, num_frames: int, height: int, width: int) -> Tensor:
        """The first frames, their middle cropped to the aspect ratio. Raises: ValueError if there are too few."""
        file = self._file(index)
        frames, _ = read_video(file, max_frames=num_frames)
        if frames.shape[2] < num_frames:
            raise ValueError(f"{file} has {frames.shape[2]} frames; this bucket takes {num_frames}")
        pixels = video_pixels(frames, VideoSize(height, width, num_frames), fit="crop")
        return (pixels[0] + 1) / 2

    def caption(self, index: int, seed: int, num_frames: int) -> str:
        return self._file(index).with_suffix(".txt").read_text(encoding="utf-8").strip()

    def answers(self, index: int) -> dict[str, str]:
        return {}

    token_questions: Mapping[str, int] = {}

    def token_answers(self, index: int, num_frames: int, height: int, width: int, grid: Grid) -> Tensor:
        return torch.empty(0, *grid, dtype=torch.int64)

    def _file(self, index: int) -> Path:
        return self.files[index % len(self.files)]
