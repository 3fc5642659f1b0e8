"""The judge on videos whose content is known: rendered, distorted, mirrored and empty ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cogvideox_core.training.demo_world.world import (
    BACKGROUNDS,
    COLOURS,
    MOTIONS,
    SHAPES,
    Scene,
    background_rows,
    make_scene,
    render,
    scene_of,
)
from tools import judge as judge_module
from tools.judge import Verdict, judge, judge_all

ATTRIBUTES = ("colour", "shape", "motion", "background")
SAMPLE = 24
Words = tuple[str | None, ...]


def words(seen: Scene | Verdict) -> Words:
    """Colour, shape, motion, background."""
    if isinstance(seen, Verdict):
        return seen.colour, seen.shape, seen.motion, seen.background
    return *seen.things[0].combination, seen.background


def accuracies(wanted: Sequence[Words], found: Sequence[Words]) -> dict[str, float]:
    """Share of equal words, for each attribute."""
    hits = torch.tensor([[a == b for a, b in zip(*pair, strict=True)] for pair in zip(wanted, found, strict=True)])
    return dict(zip(ATTRIBUTES, hits.float().mean(dim=0).tolist(), strict=True))


def assert_accurate(wanted: Sequence[Words], found: Sequence[Words], least: float) -> None:
    wrong = [f"{pair[0]} judged {pair[1]}" for pair in zip(wanted, found, strict=True) if pair[0] != pair[1]]
    shares = accuracies(wanted, found)
    assert min(shares.values()) >= least, "\n".join([str(shares), *wrong])


@lru_cache(maxsize=1)
def truth() -> tuple[list[Words], list[Words]]:
    """What scenes show, and what is seen in them."""
    scenes = [make_scene(seed, pairs=0.0) for seed in range(SAMPLE)]
    scenes += [make_scene(seed, held_out=True) for seed in range(SAMPLE)]
    return [words(scene) for scene in scenes], [words(judge(render(scene))) for scene in scenes]


def distorted(video: Tensor, seed: int) -> Tensor:
    """Blurred by a pixel, noisy, duller, and with a cast: worse than what an autoencoder gives back."""
    generator = torch.Generator().manual_seed(seed)
    kernel = torch.exp(-0.5 * torch.arange(-3.0, 4.0).square())
    kernel = (kernel / kernel.sum()).expand(3, 1, 7)
    frames = F.pad(video.transpose(0, 1), (3, 3, 3, 3), mode="replicate")
    frames = F.conv2d(F.conv2d(frames, kernel[..., None], groups=3), kernel[..., None, :], groups=3)
    video = frames.transpose(0, 1)
    grey = video.mean(dim=0, keepdim=True)
    cast = 0.1 * torch.rand(3, 1, 1, 1, generator=generator) - 0.05
    noise = 0.03 * torch.randn(video.shape, generator=generator)
    return (grey + 0.85 * (video - grey) + cast + noise).clamp(0, 1)


def painted(mask: Tensor, colour: str | tuple[int, int, int], frames: int = 9) -> Tensor:
    """A still video of a mask [H, W] in front of the night sky."""
    height, width = mask.shape
    rows = background_rows(Scene((), "the night sky"), height)[:, None, :, None].expand(3, frames, height, width)
    rgb = torch.tensor(COLOURS[colour] if isinstance(colour, str) else colour) / 255
    return torch.where(mask, rgb[:, None, None, None], rows)


# --- Accuracy ----------------------------------------------------------------------------------------------------


def test_what_is_drawn_is_seen() -> None:
    assert_accurate(*truth(), least=0.99)


def test_words_of_other_scenes_are_right_as_often_as_guesses() -> None:
    """A judge that guessed from the prompt, or always said the same, would fail here."""
    wanted, found = truth()
    shares = [accuracies(wanted[shift:] + wanted[:shift], found) for shift in range(1, len(wanted))]
    for attribute, choices in zip(ATTRIBUTES, (COLOURS, SHAPES, MOTIONS, BACKGROUNDS), strict=True):
        mean = sum(share[attribute] for share in shares) / len(shares)
        chance = 1 / len(choices)
        # Pairs of n scenes agree by chance with this standard deviation; five of them are never seen.
        assert abs(mean - chance) < 5 * math.sqrt(2 * chance * (1 - chance)) / len(wanted), attribute


@pytest.mark.parametrize("side", [pytest.param(96, marks=pytest.mark.slow), 48])
def test_distorted_videos_are_read_too(side: int) -> None:
    scenes = [make_scene(seed, pairs=0.0) for seed in range(40)]
    found = [words(judge(distorted(render(scene, height=side, width=side), seed))) for seed, scene in enumerate(scenes)]
    assert_accurate([words(scene) for scene in scenes], found, least=0.97)


@pytest.mark.parametrize(
    ("num_frames", "height", "width", "count"),
    [
        (9, 48, 72, 10),
        *(
            pytest.param(*sizes, marks=pytest.mark.slow)
            for sizes in ((17, 64, 64, 40), (17, 48, 48, 40), (17, 64, 96, 20), (17, 96, 56, 20), (33, 96, 96, 12))
        ),
    ],
)
def test_other_sizes_and_lengths_are_read(num_frames: int, height: int, width: int, count: int) -> None:
    scenes = [make_scene(seed, pairs=0.0) for seed in range(200, 200 + count)]
    found = [words(judge(render(scene, num_frames, height, width))) for scene in scenes]
    assert_accurate([words(scene) for scene in scenes], found, least=0.97)


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_every_colour_is_recognized_in_front_of_every_background(background: str) -> None:
    for seed, colour in enumerate(COLOURS):
        shape = SHAPES[seed % len(SHAPES)]
        video = render(scene_of(colour, shape, "standing still", background, seed), num_frames=5)
        assert judge(video).matches(colour, shape, "standing still", background), colour


def test_white_is_seen_where_contrast_is_lowest() -> None:
    """In front of the sky just above a desert, which is nearly white."""
    for seed in range(4):
        scene = replace(scene_of("white", "ball", "standing still", "a desert", seed), horizon=0.0, light=1.06)
        scene = replace(scene, things=(replace(scene.things[0], size="small", chances=(0.5, 0.4, 0.5)),))
        assert words(judge(render(scene, 5))) == words(scene)


def test_both_objects_of_a_pair_are_seen() -> None:
    for seed in range(15):
        scene = make_scene(seed, pairs=1.0)
        verdicts = judge_all(render(scene))
        found = {(verdict.colour, verdict.shape, verdict.motion) for verdict in verdicts}
        assert found == {thing.combination for thing in scene.things}, seed
        assert {verdict.background for verdict in verdicts} == {scene.background}


# --- The pixels decide -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("motion", "dim", "seen"),
    [
        ("moving left", 3, "moving right"),
        ("moving left", 1, "moving right"),
        ("moving left", 2, "moving left"),
        ("moving up", 2, "moving down"),
        ("moving down", 1, "moving up"),
        ("bouncing", 2, None),  # off the ceiling
        ("bouncing", 1, "bouncing"),
        ("going in a circle", 3, "going in a circle"),  # the other way round
        ("growing", 1, "shrinking"),
        ("shrinking", 1, "growing"),
        ("standing still", 1, "standing still"),
    ],
)
def test_a_video_turned_round_moves_the_other_way(motion: str, dim: int, seen: str | None) -> None:
    for seed in range(3):
        assert judge(render(scene_of("red", "ball", motion, "a sunset", seed)).flip(dim)).motion == seen


def test_swapped_channels_swap_colours() -> None:
    video = render(scene_of("red", "ball", "standing still", "the night sky"), num_frames=5)
    assert judge(video.flip(0)).colour == "blue"


def test_a_triangle_on_its_head_is_none() -> None:
    video = render(scene_of("red", "triangle", "standing still", "the night sky"), num_frames=5)
    assert judge(video.flip(2)).shape is None


def test_the_track_says_where_and_how_large() -> None:
    track = judge(render(scene_of("red", "square", "growing", "the sea"))).track
    frame, x, y, radius = zip(*track, strict=True)
    assert frame == tuple(range(17))
    assert max(x) - min(x) < 0.01 and max(y) - min(y) < 0.01
    assert radius[-1] / radius[0] == pytest.approx(1.3 / 0.6, rel=0.02)
    _, x, _, _ = zip(*judge(render(scene_of("red", "ball", "moving right", "the sea"))).track, strict=True)
    assert torch.tensor(x).diff() == pytest.approx([(x[-1] - x[0]) / 16] * 16, abs=0.002)


def test_frames_in_disorder_are_no_motion_we_know() -> None:
    order = torch.randperm(17, generator=torch.Generator().manual_seed(0))
    verdict = judge(render(scene_of("red", "ball", "moving left", "the sea"))[:, order])
    assert words(verdict) == ("red", "ball", None, "the sea")


def test_an_object_may_be_gone_for_one_frame_but_not_for_most() -> None:
    scene = scene_of("red", "ball", "moving left", "the sea")
    video, rows = render(scene), background_rows(scene, 96)[:, :, None]
    video[:, 8] = rows
    assert words(judge(video)) == words(scene)
    video[:, 8:] = rows[:, None]
    assert words(judge(video)) == (None, None, None, "the sea")


def test_fast_objects_may_be_smeared() -> None:
    """Each frame the mean of three: some distance of a bouncing ball is its own size."""
    for seed in (1, 2, 5, 8, 12, 15, 41, 57, 98):
        scene = make_scene(seed, pairs=0.0)
        video = F.pad(render(scene), (0, 0, 0, 0, 1, 1), mode="replicate").unfold(1, 3, 1).mean(dim=-1)
        assert words(judge(video)) == words(scene), seed


def test_horizons_may_be_wavy() -> None:
    y, x = torch.meshgrid(torch.linspace(-1, 1, 96), torch.linspace(-1, 1, 96), indexing="ij")
    for seed in (0, 2, 18, 27, 114, 118):
        scene = make_scene(seed, pairs=0.0)
        waves = 2 * 2 / 96 * (6 * x + torch.arange(17)[:, None, None]).sin()  # two pixels high
        grid = torch.stack([x.expand_as(waves), y + waves], dim=-1)
        frames = F.grid_sample(render(scene).transpose(0, 1), grid, padding_mode="border", align_corners=True)
        assert words(judge(frames.transpose(0, 1))) == words(scene), seed


def test_light_may_flicker() -> None:
    for seed in range(16):
        scene = make_scene(seed, pairs=0.0)
        light = 1 + 0.09 * torch.randn(9, 1, 1, generator=torch.Generator().manual_seed(seed))
        assert words(judge((render(scene, 9) * light).clamp(0, 1))) == words(scene)


# --- Nothing to see ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_an_empty_background_shows_nothing(background: str) -> None:
    video = background_rows(Scene((), background), 96)[:, None, :, None].expand(3, 17, 96, 96)
    assert judge(video) == judge(distorted(video, 0)) == Verdict(background=background)
    assert judge_all(video) == []


@pytest.mark.parametrize("grey", [0.0, 0.5, 1.0])
def test_one_plain_colour_shows_nothing(grey: float) -> None:
    assert judge(torch.full((3, 17, 48, 48), grey)) == Verdict()


def test_noise_shows_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    assert judge(torch.rand(3, 17, 96, 96, generator=generator)) == Verdict()
    coarse = F.interpolate(torch.rand(1, 3, 5, 12, 12, generator=generator), (17, 96, 96), mode="trilinear")
    for verdict in judge_all(coarse):
        assert verdict.shape is None or verdict.colour is None


def test_unknown_colours_and_shapes_are_none() -> None:
    y, x = torch.meshgrid(torch.arange(96), torch.arange(96), indexing="ij")
    disc = (x - 40).square() + (y - 50).square() < 15**2
    assert words(judge(painted(disc, (128, 128, 128)))) == (None, "ball", "standing still", "the night sky")
    bar = ((x - 40).abs() < 30) & ((y - 50).abs() < 6)
    assert words(judge(painted(bar, "red"))) == ("red", None, "standing still", "the night sky")


# --- What it takes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_floating_point_and_a_batch_of_one_are_taken(dtype: torch.dtype) -> None:
    scene = make_scene(7, pairs=0.0)
    video = render(scene)
    before = video.clone()
    assert words(judge(video.to(dtype)[None])) == words(scene)
    assert words(judge(video)) == words(scene) and torch.equal(video, before)


@pytest.mark.parametrize(
    ("video", "message"),
    [
        (
            torch.zeros(17, 3, 96, 96),
            r"shape \[17, 3, 96, 96\] and float32; give floating point of shape \[3, F, H, W\]",
        ),
        (torch.zeros(2, 3, 17, 96, 96), r"shape \[2, 3, 17, 96, 96\]"),
        (torch.zeros(3, 96, 96), r"shape \[3, 96, 96\]"),
        (torch.zeros(3, 4, 96, 96), "at least 5 frames"),
        (torch.zeros(3, 17, 47, 96), "48 rows and columns"),
        (torch.zeros(3, 17, 96, 96, dtype=torch.uint8), "uint8; give floating point"),
        (torch.full((3, 17, 96, 96), -1.0), "values from -1 to -1; give values from 0 to 1"),
        (torch.full((3, 17, 96, 96), 255.0), "values from 255 to 255"),
        (torch.full((3, 17, 96, 96), math.nan), "nan"),
    ],
)
def test_what_is_no_video_is_refused(video: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        judge(video)
    with pytest.raises(ValueError, match=message):
        judge_all(video)


def test_a_verdict_matches_only_what_it_says() -> None:
    verdict = Verdict("red", "ball", None, "the sea")
    assert verdict.matches() and verdict.matches("red") and verdict.matches("red", "ball", background="the sea")
    assert not verdict.matches("blue", "ball") and not verdict.matches(motion="bouncing")


def test_components_hang_together_through_corridors() -> None:
    """A spiral of one line is one part, however long; a part that touches nothing is another."""
    mask = torch.zeros(5, 40, 40, dtype=torch.bool)
    mask[:, 0::4, 2:38] = True
    mask[:, 0:37, 2] = True
    mask[:, 39, 0:2] = True
    sizes = [int(part.sum()) for part in judge_module._components(mask)]
    assert sizes == [5 * (10 * 36 + 27)]
    mask[:, 38:40, 10:20] = True
    assert [int(part.sum()) for part in judge_module._components(mask)] == [5 * (10 * 36 + 27), 5 * 20]
