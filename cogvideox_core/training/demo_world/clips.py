"""Training clips rendered from the demo world, with answers to questions about what they show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from ...models.transformer.positions import Grid
from .captions import caption
from .world import BACKGROUNDS, CELL, COLOURS, MOTIONS, SHAPES, SIZES, make_scene, render, tracks

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
