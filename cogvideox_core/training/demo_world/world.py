"""The demo world, which the demo models were trained on: coloured shapes that move in front of plain backgrounds.

A scene is a function of a seed alone, and a video a function of a scene and a size. All lengths are fractions of the
shorter side of the picture, so that a scene looks the same at every size.

A grid keeps this world simple enough for a small model. The shorter side has twelve cells; at 96 pixels a cell is the 8
pixels of one latent. Objects start on every second line of the grid, on the edges of a transformer's patches; horizons
are on any line; and everything moves by whole cells in half a second, which at 8 frames a second is one latent frame.
So a token shows one of few pictures of a part of an object.

The colour of a background depends on the row only. That is why tools/judge.py can find objects by image analysis,
without a trained network.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor

FPS = 8
NUM_FRAMES = 17
HEIGHT = WIDTH = 96

RGB = tuple[int, int, int]
Combination = tuple[str, str, str]

COLOURS: dict[str, RGB] = {
    "red": (222, 32, 38),
    "orange": (246, 132, 18),
    "yellow": (248, 222, 40),
    "green": (36, 176, 60),
    "blue": (36, 84, 228),
    "purple": (132, 44, 196),
    "pink": (250, 130, 196),
    "white": (246, 246, 246),
}

CELL = 1 / 12
_LINES = 2  # cells between the lines that objects start on
_HORIZON = 7 * CELL
HORIZONS = (-CELL, 0.0, CELL)
LIGHTS = (0.94, 1.0, 1.06)

Stop = tuple[float, RGB]
"""A colour at a height of the picture, from 0 at the top to 1."""


def _board(index: int) -> tuple[Stop, Stop, Stop]:
    """One of the four boards of a wooden wall: dark where it touches the one above."""
    top = index / 4
    return (top, (92, 66, 48)), (top + 0.06, (132, 98, 72)), (top + 0.25, (118, 86, 62))


BACKGROUNDS: dict[str, tuple[Stop, ...]] = {  # two stops at one height make an edge
    "a meadow": ((0.0, (118, 158, 190)), (_HORIZON, (172, 196, 204)), (_HORIZON, (104, 118, 66)), (1.0, (82, 94, 48))),
    "a desert": (
        (0.0, (142, 170, 186)),
        (_HORIZON, (196, 202, 196)),
        (_HORIZON, (196, 166, 122)),
        (1.0, (166, 136, 98)),
    ),
    "the sea": ((0.0, (104, 136, 160)), (_HORIZON, (164, 184, 190)), (_HORIZON, (52, 96, 112)), (1.0, (26, 58, 78))),
    "the night sky": ((0.0, (8, 8, 20)), (1.0, (44, 44, 66))),
    "a wooden wall": (*_board(0), *_board(1), *_board(2), *_board(3)),
    "a sunset": ((0.0, (62, 50, 86)), (_HORIZON, (156, 104, 108)), (1.0, (196, 146, 122))),
}

SHAPES = ("ball", "square", "triangle", "star", "ring")

MOTIONS = (
    "moving left",
    "moving right",
    "moving up",
    "moving down",
    "standing still",
    "bouncing",
    "going in a circle",
    "growing",
    "shrinking",
)

SIZES: dict[str, float] = {"small": 0.13, "large": 0.2}
"""Radii of objects."""

REACH = {"ball": 1.0, "square": 0.88 * math.sqrt(2), "triangle": 1.3, "star": 1.35, "ring": 1.1}
"""Radius of the circle around a shape of radius 1. Shapes of one radius look equally large."""

_STAR_WAIST = 0.45  # of a star's reach
_RING_HOLE = 0.52  # of a ring's reach
_GROWTH = (0.6, 1.3)
_MARGIN = 0.02
_SPEED = 2 * CELL  # a second
_BOUNCE = 2  # cells high
_CIRCLE = 2  # cells of radius
_SIDEWAYS = ("moving left", "moving right")
_UPRIGHT = ("moving up", "moving down", "bouncing")

Box = tuple[float, float, float, float]  # left, top, right, bottom: where the centre of an object may be
Position = tuple[float, float, float]  # x, y, radius


@dataclass(frozen=True)
class Thing:
    """One object: what it is, and three random numbers from 0 to 1 that its path depends on."""

    colour: str
    shape: str
    motion: str
    size: str
    chances: tuple[float, float, float]

    @property
    def combination(self) -> Combination:
        return self.colour, self.shape, self.motion

    @property
    def radius(self) -> float:
        """Its radius where it neither grows nor shrinks."""
        return SIZES[self.size]

    @property
    def reach(self) -> float:
        """Half the side of the square the object stays in, at its largest."""
        largest = _GROWTH[1] if self.motion in ("growing", "shrinking") else 1.0
        return self.radius * REACH[self.shape] * largest


@dataclass(frozen=True)
class Scene:
    """One or two objects in front of a background.

    `horizon` shifts the background's stops down, `light` multiplies its colours. Two objects are one above the other
    if `stacked`, else side by side.
    """

    things: tuple[Thing, ...]
    background: str
    horizon: float = 0.0
    light: float = 1.0
    stacked: bool = False


def combinations() -> list[Combination]:
    """Every (colour, shape, motion)."""
    return list(product(COLOURS, SHAPES, MOTIONS))


def _hold_out() -> frozenset[Combination]:
    """72 combinations, each value of each attribute equally often: colour + 2 shape + 3 motion picks a fifth."""
    return frozenset(
        (colour, shape, motion)
        for (i, colour), (j, shape), (k, motion) in product(enumerate(COLOURS), enumerate(SHAPES), enumerate(MOTIONS))
        if (i + 2 * j + 3 * k) % 5 == 0
    )


HELD_OUT: frozenset[Combination] = _hold_out()
"""The combinations that no training video shows. A model that makes a video of one has composed it."""


def make_scene(seed: int, *, pairs: float = 0.12, held_out: bool = False) -> Scene:
    """A random scene, the same for the same arguments on every machine.

    Args:
        seed: any integer.
        pairs: share of scenes with two objects.
        held_out: draw from HELD_OUT only (one object), instead of from everything else.
    """
    chance = random.Random(f"scene {seed}")
    count = 2 if chance.random() < pairs and not held_out else 1
    things: list[Thing] = []
    while len(things) < count:
        thing = _draw_thing(chance, count)
        if (thing.combination in HELD_OUT) == held_out and all(_go_together(thing, other) for other in things):
            things.append(thing)
    background, horizon, light = chance.choice(list(BACKGROUNDS)), chance.choice(HORIZONS), chance.choice(LIGHTS)
    motions = {thing.motion for thing in things}
    stacked = bool(motions & set(_SIDEWAYS)) or (not motions & set(_UPRIGHT) and chance.random() < 0.5)
    return Scene(tuple(things), background, horizon, light, stacked)


def _go_together(one: Thing, other: Thing) -> bool:
    """Whether words distinguish two objects, and half a picture has room for each one's motion."""
    motions = {one.motion, other.motion}
    crossing = motions & set(_SIDEWAYS) and motions & set(_UPRIGHT)
    return one.colour != other.colour and one.shape != other.shape and not crossing


def scene_of(colour: str, shape: str, motion: str, background: str, seed: int = 0) -> Scene:
    """A scene with this one object; the rest is drawn from the seed."""
    scene = make_scene(seed, pairs=0.0)
    thing = replace(scene.things[0], colour=colour, shape=shape, motion=motion)
    return replace(scene, things=(thing,), background=background)


def _draw_thing(chance: random.Random, count: int) -> Thing:
    in_half_a_picture = [motion for motion in MOTIONS if motion != "going in a circle"]  # for which it is too small
    colour = chance.choice(list(COLOURS))
    shape = chance.choice(SHAPES)
    motion = chance.choice(MOTIONS if count == 1 else in_half_a_picture)
    size = "small" if count == 2 else chance.choice(list(SIZES))
    return Thing(colour, shape, motion, size, (chance.random(), chance.random(), chance.random()))


# --- Motion ------------------------------------------------------------------------------------------------------


def _grid(low: float, high: float) -> range:
    """Every second line of the grid from low to high; if there is none, the line nearest to the middle."""
    lines = range(_LINES * math.ceil(low / CELL / _LINES), math.floor(high / CELL) + 1, _LINES)
    middle = round((low + high) / 2 / CELL)
    return lines or range(middle, middle + 1)


def _pick(lines: range, chance: float) -> int:
    return lines[int(chance * len(lines))]


def _stretch(lines: range, cells: int, chance: float) -> tuple[int, int]:
    """The lines between which something moves: `cells` apart, or as many as there is room for."""
    cells = min(cells, lines[-1] - lines[0])
    low = _pick(range(lines[0], lines[-1] - cells + 1, _LINES), chance)
    return low, low + cells


def _between(lines: range, cells: int) -> range:
    """The lines that are at least `cells` away from both ends."""
    return range(lines[0] + cells, lines[-1] - cells + 1, _LINES)


def _position(thing: Thing, box: Box, seconds: float, duration: float) -> Position:
    """The centre after `seconds` of `duration`, and the radius then."""
    progress = seconds / duration if duration else 0.0
    x, y = _centre(thing, box, seconds, progress, duration)
    scale = 1.0
    if thing.motion in ("growing", "shrinking"):
        start, end = _GROWTH if thing.motion == "growing" else _GROWTH[::-1]
        scale = start + progress * (end - start)
    return x * CELL, y * CELL, thing.radius * scale


def _centre(thing: Thing, box: Box, seconds: float, progress: float, duration: float) -> tuple[float, float]:
    """x and y in cells."""
    left, top, right, bottom = box
    columns, rows = _grid(left, right), _grid(top, bottom)
    first, second, third = thing.chances
    x: float = _pick(columns, first)
    y: float = _pick(rows, second)
    cells = round(_SPEED * duration / CELL)
    if thing.motion in _SIDEWAYS:
        low, high = _stretch(columns, cells, first)
        x = high + progress * (low - high) if thing.motion == "moving left" else low + progress * (high - low)
    elif thing.motion in ("moving up", "moving down"):
        low, high = _stretch(rows, cells, second)
        y = high + progress * (low - high) if thing.motion == "moving up" else low + progress * (high - low)
    elif thing.motion == "bouncing":
        peak, floor = _stretch(rows, _BOUNCE, second)
        y = floor - (floor - peak) * abs(math.sin(math.pi * seconds))
    elif thing.motion == "going in a circle":
        radius = min(_CIRCLE, (columns[-1] - columns[0]) // 2, (rows[-1] - rows[0]) // 2)
        angle = math.pi * seconds + math.pi / 2 * int(4 * third)
        x = _pick(_between(columns, radius), first) + radius * math.cos(angle)
        y = _pick(_between(rows, radius), second) + radius * math.sin(angle)
    return x, y


def tracks(scene: Scene, num_frames: int, height: int, width: int) -> list[list[Position]]:
    """Centre and radius of each object in each frame, in fractions of the shorter side: (x, y, radius)."""
    unit, duration = min(height, width), (num_frames - 1) / FPS
    boxes = _boxes(scene, height / unit, width / unit)
    times = [frame / FPS for frame in range(num_frames)]
    return [_track(thing, box, times, duration) for thing, box in zip(scene.things, boxes, strict=True)]


def _track(thing: Thing, box: Box, times: Sequence[float], duration: float) -> list[Position]:
    return [_position(thing, box, seconds, duration) for seconds in times]


def _boxes(scene: Scene, height: float, width: float) -> list[Box]:
    """The part of the picture each object's centre stays in."""
    frames: list[Box] = [(0.0, 0.0, width, height)]
    if len(scene.things) == 2:
        half_height, half_width = height / 2, width / 2
        frames = (
            [(0.0, 0.0, width, half_height), (0.0, half_height, width, height)]
            if scene.stacked
            else [(0.0, 0.0, half_width, height), (half_width, 0.0, width, height)]
        )
    boxes = []
    for thing, (left, top, right, bottom) in zip(scene.things, frames, strict=True):
        room = thing.reach + _MARGIN
        boxes.append((left + room, top + room, max(left + room, right - room), max(top + room, bottom - room)))
    return boxes


# --- Pictures ----------------------------------------------------------------------------------------------------

Distance = Callable[[Tensor, Tensor], Tensor]
"""Signed distance from (x, y) to the outline of a shape of radius 1; negative inside."""


def _ball(x: Tensor, y: Tensor) -> Tensor:
    return torch.hypot(x, y) - 1.0


def _ring(x: Tensor, y: Tensor) -> Tensor:
    outer = REACH["ring"]
    middle, half_width = outer * (1 + _RING_HOLE) / 2, outer * (1 - _RING_HOLE) / 2
    return (torch.hypot(x, y) - middle).abs() - half_width


def _square(x: Tensor, y: Tensor) -> Tensor:
    side = REACH["square"] / math.sqrt(2)
    return torch.maximum(x.abs(), y.abs()) - side


def _corners(count: int, radii: Iterable[float]) -> list[tuple[float, float]]:
    """Corners at equal angles from the top, clockwise."""
    turns = [2 * math.pi * index / count for index in range(count)]
    return [(r * math.sin(turn), -r * math.cos(turn)) for turn, r in zip(turns, radii, strict=True)]


def _polygon(corners: list[tuple[float, float]]) -> Distance:
    """Distance to a polygon: to its nearest edge, with the sign of the even-odd rule."""

    def distance(x: Tensor, y: Tensor) -> Tensor:
        nearest = torch.full_like(x + y, math.inf)
        inside = torch.zeros_like(nearest, dtype=torch.bool)
        for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
            ex, ey = bx - ax, by - ay
            along = (((x - ax) * ex + (y - ay) * ey) / (ex * ex + ey * ey)).clamp(0.0, 1.0)
            nearest = torch.minimum(nearest, torch.hypot(x - ax - along * ex, y - ay - along * ey))
            if ay != by:
                inside ^= ((y >= ay) != (y >= by)) & (x < ax + (y - ay) / (by - ay) * ex)
        return torch.where(inside, -nearest, nearest)

    return distance


_OUTLINES: dict[str, Distance] = {
    "ball": _ball,
    "square": _square,
    "triangle": _polygon(_corners(3, [REACH["triangle"]] * 3)),
    "star": _polygon(_corners(10, [REACH["star"], REACH["star"] * _STAR_WAIST] * 5)),
    "ring": _ring,
}


def render(scene: Scene, num_frames: int = NUM_FRAMES, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    """The scene as a video at 8 frames a second.

    Returns: [3, F, H, W] in [0, 1], float32, antialiased.
    """
    unit = min(height, width)
    video = background_rows(scene, height)[:, None, :, None].expand(3, num_frames, height, width).clone()
    rows = (torch.arange(height, dtype=torch.float32) + 0.5)[:, None] / unit
    columns = (torch.arange(width, dtype=torch.float32) + 0.5)[None, :] / unit
    for thing, track in zip(scene.things, tracks(scene, num_frames, height, width), strict=True):
        colour = _colour(COLOURS[thing.colour])[:, None, None]
        for frame, (x, y, radius) in enumerate(track):
            distance = _OUTLINES[thing.shape]((columns - x) / radius, (rows - y) / radius) * radius * unit
            video[:, frame].lerp_(colour.expand(3, height, width), (0.5 - distance).clamp(0.0, 1.0))
    return video


def background_rows(scene: Scene, height: int) -> Tensor:
    """[3, H] in [0, 1]: the colour of each row behind the objects."""
    stops = BACKGROUNDS[scene.background]
    heights = [stop if stop in (0.0, 1.0) else stop + scene.horizon for stop, _ in stops]
    colours = torch.stack([_colour(colour) for _, colour in stops], dim=1) * scene.light
    rows = (torch.arange(height, dtype=torch.float32) + 0.5) / height
    profile = colours[:, :1].repeat(1, height)
    for index, (low, high) in enumerate(zip(heights, heights[1:], strict=False)):
        within = rows >= low
        mix = ((rows - low) / (high - low)).clamp(0.0, 1.0) if high > low else torch.ones_like(rows)
        profile = torch.where(within, colours[:, index, None].lerp(colours[:, index + 1, None], mix), profile)
    return profile.clamp(0.0, 1.0)


def _colour(rgb: RGB) -> Tensor:
    return torch.tensor(rgb, dtype=torch.float32) / 255.0
