"""The demo world: the same scenes on every machine, objects inside the picture, combinations held out."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from cogvideox_core.training.demo_world.captions import caption
from cogvideox_core.training.demo_world.world import (
    BACKGROUNDS,
    COLOURS,
    HELD_OUT,
    LIGHTS,
    MOTIONS,
    REACH,
    SHAPES,
    SIZES,
    Scene,
    background_rows,
    combinations,
    make_scene,
    render,
    scene_of,
    tracks,
)

SEEDS = range(3000)

# What these seeds have drawn and said since the demo models were trained: seed, arguments, objects, background, mean
# of red, green and blue, caption.
GOLDEN = [
    (
        0,
        {},
        [("green", "star", "standing still"), ("orange", "square", "moving left")],
        "a wooden wall",
        [0.51797, 0.39462, 0.26054],
        "a tiny green starlet is standing still and a tiny tangerine box flies to the left",
    ),
    (
        5,
        {"pairs": 1.0},
        [("orange", "ring", "moving right"), ("purple", "square", "growing")],
        "the sea",
        [0.39438, 0.47679, 0.54804],
        "the orange donut moving right and a purple box growing against the sea",
    ),
    (
        3,
        {"held_out": True},
        [("red", "ball", "moving left")],
        "a desert",
        [0.73446, 0.64092, 0.60222],
        "a red ball moving left in front of a desert.",
    ),
]


def background_of(scene: Scene, height: int) -> Tensor:
    """[3, 1, H, 1]: the scene without its objects."""
    return background_rows(scene, height)[:, None, :, None]


def positions(scene: Scene, num_frames: int, height: int, width: int) -> Iterator[list[tuple[float, float, float]]]:
    """x, y and reach of each object, frame by frame, in fractions of the shorter side."""
    for found in zip(*tracks(scene, num_frames, height, width), strict=True):
        pairs = zip(scene.things, found, strict=True)
        yield [(x, y, radius * REACH[thing.shape]) for thing, (x, y, radius) in pairs]


# --- Scenes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seed", "options", "things", "background", "colour", "said"), GOLDEN)
def test_seeds_draw_and_say_what_they_did_when_the_models_were_trained(
    seed: int, options: dict, things: list, background: str, colour: list[float], said: str
) -> None:
    scene = make_scene(seed, **options)
    assert [thing.combination for thing in scene.things] == things
    assert scene.background == background
    assert render(scene).mean(dim=(1, 2, 3)).tolist() == pytest.approx(colour, abs=2e-5)
    assert caption(scene, seed) == said


def test_a_scene_is_its_seed_whatever_else_was_drawn() -> None:
    scenes = [make_scene(seed) for seed in range(200)]
    random.seed(1)
    assert scenes == [make_scene(seed) for seed in range(200)]
    assert len(set(scenes)) == 200


def test_held_out_combinations_are_in_no_training_scene_and_in_every_other() -> None:
    drawn = {thing.combination for seed in SEEDS for thing in make_scene(seed).things}
    assert drawn == set(combinations()) - HELD_OUT
    assert {make_scene(seed, held_out=True).things[0].combination for seed in range(1000)} == HELD_OUT
    assert all(len(make_scene(seed, pairs=1.0, held_out=True).things) == 1 for seed in range(20))


def test_enough_is_held_out_of_everything() -> None:
    assert len(HELD_OUT) >= 64 and set(combinations()) >= HELD_OUT
    for values, index in ((COLOURS, 0), (SHAPES, 1), (MOTIONS, 2)):
        counts = Counter(combination[index] for combination in HELD_OUT)
        assert set(counts) == set(values)
        assert max(counts.values()) - min(counts.values()) <= 1  # equally often, as far as 72 can be shared out


def test_training_scenes_show_everything_about_equally_often() -> None:
    things = [thing for seed in SEEDS for thing in make_scene(seed, pairs=0.0).things]
    sets = {"colour": COLOURS, "shape": SHAPES, "motion": MOTIONS, "size": SIZES}
    for attribute, values in sets.items():
        counts = Counter(getattr(thing, attribute) for thing in things)
        assert set(counts) == set(values)
        assert max(counts.values()) < 1.5 * min(counts.values()), counts
    assert {make_scene(seed).background for seed in SEEDS} == set(BACKGROUNDS)
    pairs = sum(len(make_scene(seed).things) == 2 for seed in SEEDS) / len(SEEDS)
    assert pairs == pytest.approx(0.12, abs=0.02)


def test_objects_of_a_pair_share_no_word() -> None:
    for seed in range(300):
        one, other = make_scene(seed, pairs=1.0).things
        assert one.colour != other.colour and one.shape != other.shape


def test_scene_of_shows_what_was_asked_for() -> None:
    for seed, combination in enumerate(combinations()):
        scene = scene_of(*combination, background="the sea", seed=seed)
        assert [thing.combination for thing in scene.things] == [combination] and scene.background == "the sea"
    assert scene_of("red", "ball", "bouncing", "the sea", 1) != scene_of("red", "ball", "bouncing", "the sea", 2)


# --- Pictures ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(17, 96, 96), (1, 48, 48), (5, 48, 80), (33, 80, 48)])
def test_a_video_is_its_scene_in_colours_from_0_to_1(size: tuple[int, int, int]) -> None:
    for seed in range(6):
        scene = make_scene(seed, pairs=0.5)
        video = render(scene, *size)
        assert video.shape == (3, *size) and video.dtype == torch.float32
        assert 0 <= video.min() <= video.max() <= 1
        assert torch.equal(video, render(make_scene(seed, pairs=0.5), *size))


@pytest.mark.parametrize("size", [(64, 64), (64, 96), (96, 64)])
@pytest.mark.parametrize("pairs", [0.0, 1.0])
def test_objects_stay_inside_the_picture(size: tuple[int, int], pairs: float) -> None:
    height, width = size
    for seed in range(40):
        scene = make_scene(seed, pairs=pairs)
        video, empty = render(scene, 9, height, width), background_of(scene, height)
        changed = ((video - empty).abs() > 1e-6).any(dim=0)
        assert changed.flatten(1).any(dim=1).all(), seed  # there is something in every frame
        changed[:, 1:-1, 1:-1] = False
        assert not changed.any(), seed


@pytest.mark.parametrize("size", [(96, 96), (96, 170), (170, 96)])
def test_every_path_stays_inside_and_two_objects_never_meet(size: tuple[int, int]) -> None:
    height, width = (side / min(size) for side in size)
    for seed in range(400):
        for found in positions(make_scene(seed, pairs=0.7), 17, *size):
            for x, y, reach in found:
                assert reach < x < width - reach and reach < y < height - reach, seed
            if len(found) == 2:
                (ax, ay, one), (bx, by, other) = found
                assert max(abs(ax - bx), abs(ay - by)) > one + other, seed


def test_objects_are_on_the_grid_whenever_a_latent_begins() -> None:
    for seed in range(300):
        for found in list(positions(make_scene(seed, pairs=0.3), 17, 96, 96))[::4]:
            for x, y, _ in found:
                assert abs(x * 12 - round(x * 12)) < 1e-6 and abs(y * 12 - round(y * 12)) < 1e-6, seed
    for seed in range(300):
        ((x, y, _),) = next(positions(make_scene(seed, pairs=0.0), 1, 96, 96))
        assert abs(x * 6 - round(x * 6)) < 1e-6 and abs(y * 6 - round(y * 6)) < 1e-6, seed


def test_pairs_move_as_they_are_said_to() -> None:
    for seed in range(300):
        scene = make_scene(seed, pairs=1.0)
        first, last = (frames for i, frames in enumerate(positions(scene, 17, 96, 96)) if i in (0, 16))
        for thing, (ax, ay, _), (bx, by, _) in zip(scene.things, first, last, strict=True):
            moved = {"moving left": (-4, 0), "moving right": (4, 0), "moving up": (0, -4), "moving down": (0, 4)}
            wanted = moved.get(thing.motion, (0, 0))
            assert ((bx - ax) * 12, (by - ay) * 12) == pytest.approx(wanted, abs=1e-6), seed


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_backgrounds_change_from_row_to_row_only_and_are_unlike_every_object(background: str) -> None:
    for light in (min(LIGHTS), max(LIGHTS)):
        scene = scene_of("red", "ball", "standing still", background)
        rows = background_rows(Scene(scene.things, background, 0.0, light), 96)  # [3, H]
        for colour, rgb in COLOURS.items():
            distance = (rows - torch.tensor(rgb)[:, None] / 255).square().sum(dim=0).sqrt()
            assert distance.min() > 0.24, (colour, light)
    video = render(scene, 5)
    beside = ((video - background_of(scene, 96)).abs() < 1e-6).all(dim=0)
    assert beside.float().mean() > 0.7


def test_a_scene_looks_the_same_at_every_size() -> None:
    for seed in range(10):
        scene = make_scene(seed, pairs=0.3)
        large = torch.nn.functional.avg_pool2d(render(scene, 5, 192, 192), 4)
        assert (large - render(scene, 5, 48, 48)).abs().mean() < 0.01


def test_shapes_have_the_areas_of_their_outlines() -> None:
    """Ball, square, triangle, star and ring of radius 1, from their corners and radii."""
    areas = {"ball": 3.1416, "square": 3.0976, "triangle": 2.1954, "star": 2.4103, "ring": 2.7729}
    for shape, area in areas.items():
        scene = scene_of("white", shape, "standing still", "the night sky")
        video, empty = render(scene, 1, 192, 192), background_of(scene, 192)
        covered = ((video - empty).sum(dim=0) / (246 / 255 * 3 - empty.sum(dim=0))).sum()
        assert covered / (scene.things[0].radius * 192) ** 2 == pytest.approx(area, rel=0.01), shape
