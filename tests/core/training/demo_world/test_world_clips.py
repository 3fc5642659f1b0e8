"""Clips of the demo world: answers about a scene and its tokens are what the pixels show."""

from __future__ import annotations

import torch

from cogvideox_core.training.demo_world.world import COLOURS, SHAPES, background_rows, make_scene, render, tracks
from cogvideox_core.training.demo_world.world_clips import WorldClips


def test_questions_have_answers_to_choose_from() -> None:
    clips = WorldClips()
    asked = {name: set(choices) for name, choices in clips.questions.items()}
    heard: dict[str, set[str]] = {name: set() for name in asked}
    for index in range(1500):
        answers = clips.answers(index)
        assert answers.keys() == asked.keys()
        for thing in make_scene(index).things:
            assert [answers[f"{thing.shape}, {what}"] for what in ("colour", "motion", "size")] == [
                thing.colour,
                thing.motion,
                thing.size,
            ]
        for name, answer in answers.items():
            heard[name].add(answer)
    assert heard == asked


def test_tokens_are_asked_where_the_nearest_object_is() -> None:
    """Checked against the pixels: their centre of mass is the middle of all these shapes."""
    clips, grid = WorldClips(), (3, 6, 8)
    names = list(clips.token_questions)
    rows, columns = (torch.arange(48) + 0.5)[:, None], (torch.arange(64) + 0.5)[None, :]
    seen = 0
    for index in range(60):
        scene = make_scene(index)
        if len(scene.things) != 1:
            continue
        seen += 1
        answers = dict(zip(names, clips.token_answers(index, 9, 48, 64, grid), strict=True))
        assert all(0 <= answers[name].min() and answers[name].max() < clips.token_questions[name] for name in names)
        assert (answers["shape"] == SHAPES.index(scene.things[0].shape)).all()
        assert (answers["colour"] == list(COLOURS).index(scene.things[0].colour)).all()
        video = render(scene, 9, 48, 64)
        share = (video - background_rows(scene, 48)[:, None, :, None]).abs().sum(dim=0)
        share = (share > 0.15).float()
        for token, frame in enumerate((0, 4, 8)):
            weight = share[frame] / share[frame].sum()
            x, y = (weight * columns).sum().item() / 4, (weight * rows).sum().item() / 4  # in cells of 4 pixels
            for row in range(6):
                for column in range(8):
                    place = token, row, column
                    for name, away in (("column", x - 2 * column - 1), ("row", y - 2 * row - 1)):
                        assert abs(answers[name][place] - 11 - max(-11, min(11, away))) < 0.8, index
        if scene.things[0].motion in ("growing", "shrinking"):
            first, last = answers["radius"][0, 0, 0], answers["radius"][2, 0, 0]
            assert (first < last) == (scene.things[0].motion == "growing") and first != last
    assert seen > 40


def test_of_two_objects_the_nearer_one_is_asked_about() -> None:
    clips = WorldClips()
    pairs = [index for index in range(200) if len(make_scene(index).things) == 2]
    for index in pairs:
        scene = make_scene(index)
        shapes = clips.token_answers(index, 1, 96, 96, (1, 12, 12))[0, 0]
        for thing, ((x, y, _),) in zip(scene.things, tracks(scene, 1, 96, 96), strict=True):
            assert shapes[int(12 * y), int(12 * x)] == SHAPES.index(thing.shape)
    assert len(pairs) > 10
