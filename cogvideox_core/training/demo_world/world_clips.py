"""Training clips rendered from the demo world, with answers to questions about what they show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ...models.transformer.positions import Grid
from .captions import caption
from .world import BACKGROUNDS, CELL, COLOURS, MOTIONS, SHAPES, SIZES, Scene, make_scene, render, tracks

_FARTHEST = 11  # cells from a token to an object; what is farther away counts as this far
_RADII = 13  # classes of radii, from an eighth of a large object's to twice that
_ABSENT = "no such object"
_LOOKS = {"colour": tuple(COLOURS), "motion": MOTIONS, "size": tuple(SIZES)}


def _clip_questions() -> dict[str, Sequence[str]]:
    """Colour, motion and size for each shape, as "ball, colour"; and the background."""
    questions: dict[str, Sequence[str]] = {}
    for shape in SHAPES:
        for look, words in _LOOKS.items():
            questions[f"{shape}, {look}"] = (_ABSENT, *words)
    return {**questions, "background": tuple(BACKGROUNDS)}


class WorldClips:
    """Scenes of the demo world, without the combinations held out for testing.

    No scene has two objects of one shape, so the answers about each shape describe all objects of a scene.
    """

    settings: Mapping[str, Any] = {}
    questions: Mapping[str, Sequence[str]] = _clip_questions()
    token_questions: Mapping[str, int] = {
        "shape": len(SHAPES),
        "colour": len(COLOURS),
        "column": 2 * _FARTHEST + 1,
        "row": 2 * _FARTHEST + 1,
        "radius": _RADII,
    }

    def video(self, index: int, num_frames: int, height: int, width: int) -> Tensor:
        """[3, F, H, W] in [0, 1]."""
        return render(make_scene(index), num_frames, height, width)

    def caption(self, index: int, seed: int, num_frames: int) -> str:
        """The caption of scene `index` that `seed` draws; that of a single frame names no motion."""
        return caption(make_scene(index), seed, moving=num_frames > 1)

    def answers(self, index: int) -> dict[str, str]:
        """The answer to each of `questions` about scene `index`."""
        scene = make_scene(index)
        things = {thing.shape: thing for thing in scene.things}
        answers = {"background": scene.background}
        for shape in SHAPES:
            for look in _LOOKS:
                answers[f"{shape}, {look}"] = getattr(things[shape], look) if shape in things else _ABSENT
        return answers

    def token_answers(self, index: int, num_frames: int, height: int, width: int, grid: Grid) -> Tensor:
        """About the object nearest to each token: what it is, how many cells away, and how large.

        Returns: int64 [5, T, h, w] in the order of `token_questions`, for a grid (T, h, w).
        """
        return _nearest_object(index, num_frames, height, width, grid).long()


@lru_cache(maxsize=65_536)
def _nearest_object(index: int, num_frames: int, height: int, width: int, grid: Grid) -> Tensor:
    """[shape, colour, column, row, radius] of the object nearest to each token, int8 [5, T, h, w]."""
    scene = make_scene(index)
    x, y, radius = _positions(scene, num_frames, (height, width), grid[0]).unbind(dim=2)  # each [objects, T]
    right, down = _offsets(x, y, (height, width), grid)
    per_object = [
        _indices(scene, "shape", SHAPES)[:, None, None, None],
        _indices(scene, "colour", list(COLOURS))[:, None, None, None],
        _cells(right),
        _cells(down),
        _radius_class(radius)[..., None, None],
    ]
    answers = torch.stack([answer.expand(right.shape).float() for answer in per_object])  # [5, objects, T, h, w]
    nearest = torch.maximum(right.abs(), down.abs()).argmin(dim=0)  # [T, h, w]
    return answers.gather(1, nearest.expand(len(answers), 1, *grid))[:, 0].to(torch.int8)


def _positions(scene: Scene, num_frames: int, size: tuple[int, int], latent_frames: int) -> Tensor:
    """[objects, T, 3]: x, y and radius of each object at each latent frame, in fractions of the shorter side."""
    frames = [round(token * (num_frames - 1) / max(1, latent_frames - 1)) for token in range(latent_frames)]
    return torch.tensor(tracks(scene, num_frames, *size))[:, frames]


def _offsets(x: Tensor, y: Tensor, size: tuple[int, int], grid: Grid) -> tuple[Tensor, Tensor]:
    """How far right of and below each token the objects are, [objects, T, h, w], for x and y [objects, T]."""
    (height, width), (_, rows, columns) = size, grid
    unit = min(height, width)
    right = x[..., None] - (torch.arange(columns) + 0.5) * (width / columns / unit)  # [objects, T, w]
    down = y[..., None] - (torch.arange(rows) + 0.5) * (height / rows / unit)  # [objects, T, h]
    shape = (len(x), *grid)
    return right[:, :, None].expand(shape), down[..., None].expand(shape)


def _indices(scene: Scene, attribute: str, values: Sequence[str]) -> Tensor:
    return torch.tensor([values.index(getattr(thing, attribute)) for thing in scene.things])


def _cells(offset: Tensor) -> Tensor:
    """The class of an offset: whole cells, as far as `_FARTHEST` to both sides."""
    return (offset / CELL).round().clamp(-_FARTHEST, _FARTHEST) + _FARTHEST


def _radius_class(radius: Tensor) -> Tensor:
    """The class of a radius: `_RADII` equal steps of the logarithm from an eighth of a large radius to twice it."""
    octaves = math.log2(8) + (radius / SIZES["large"]).log2()
    return (octaves * _RADII / math.log2(16)).round().clamp(0, _RADII - 1)
