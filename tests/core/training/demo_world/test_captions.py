"""Captions of the demo world: words that mean what a scene shows, and every word of the grammar."""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest

from cogvideox_core.training.demo_world import captions
from cogvideox_core.training.demo_world.captions import PROMPT_GRAMMAR, caption, prompt_of
from cogvideox_core.training.demo_world.world import BACKGROUNDS, COLOURS, MOTIONS, SHAPES, make_scene, scene_of

SEEDS = range(3000)


def all_captions(moving: bool = True) -> list[str]:
    return [caption(make_scene(seed), seed, moving=moving) for seed in SEEDS]


def says(text: str, words: str, strays: int = 0) -> bool:
    """Whether a text has these words, next to each other but for so many strays."""
    between = rf"(?: \S+){{0,{strays}}} "
    return re.search(rf"\b{between.join(map(re.escape, words.split()))}\b", text.lower()) is not None


def motion_words() -> set[str]:
    tables = (captions._MOTION_WORDS, captions._FINITE_VERBS)
    return set(MOTIONS).union(*(words for table in tables for words in table.values()))


def test_a_caption_is_its_scene_and_seed() -> None:
    before = all_captions()
    random.seed(1)
    assert before == all_captions()
    scene = make_scene(2)
    assert len({caption(scene, seed) for seed in range(200)}) > 100


@pytest.mark.parametrize("moving", [True, False])
def test_captions_are_tidy(moving: bool) -> None:
    for text in all_captions(moving):
        assert text == text.strip() and text
        assert not re.search(r"  |[{}]| [,.:]|,,|\.\.", text), text


def test_captions_of_pictures_name_no_motion() -> None:
    words = motion_words()
    for text in all_captions(moving=False):
        assert not [word for word in words if says(text, word)], text


def test_captions_of_videos_name_the_motion_of_every_object_and_no_other() -> None:
    for seed, text in enumerate(all_captions()):
        known = [
            (*captions._MOTION_WORDS[thing.motion], *captions._FINITE_VERBS[thing.motion], thing.motion)
            for thing in make_scene(seed).things
        ]
        assert all(any(says(text, word, strays=4) for word in words) for words in known), text
        strange = motion_words().difference(*known)
        assert not [word for word in strange if says(text, word)], text


def test_no_two_words_are_the_same_for_different_things() -> None:
    tables = (captions._COLOUR_WORDS, captions._SHAPE_WORDS, captions._SIZE_WORDS, captions._BACKGROUND_WORDS)
    words = [word for table in tables for key, synonyms in table.items() for word in {key, *synonyms}]
    moves = [captions._MOTION_WORDS[motion] + captions._FINITE_VERBS[motion] + (motion,) for motion in MOTIONS]
    words += [word for choices in moves for word in choices]
    assert [word for word, count in Counter(words).items() if count > 1] == []


def test_the_grammar_makes_a_prompt_of_every_choice() -> None:
    assert list(PROMPT_GRAMMAR) == ["colour", "shape", "motion", "background", "template"]
    lists = {key: words for key, words in PROMPT_GRAMMAR.items() if isinstance(words, list)}
    assert list(lists) == ["colour", "shape", "motion", "background"]
    assert [set(words) for words in lists.values()] == [set(COLOURS), set(SHAPES), set(MOTIONS), set(BACKGROUNDS)]
    template = PROMPT_GRAMMAR["template"]
    assert isinstance(template, str)
    first = {key: words[0] for key, words in lists.items()}
    for key, words in lists.items():
        for word in words:
            prompt = template.format(**first | {key: word})
            assert "{" not in prompt and says(prompt, word)
            scene = scene_of(**first | {key: word})
            assert prompt_of(scene) == prompt


def test_every_word_of_the_grammar_and_every_synonym_is_used() -> None:
    text = "\n".join(all_captions() + all_captions(moving=False))
    tables = (captions._COLOUR_WORDS, captions._SHAPE_WORDS, captions._BACKGROUND_WORDS, captions._SIZE_WORDS)
    words = motion_words().union(*({key, *synonyms} for table in tables for key, synonyms in table.items()))
    words |= {word for choices in PROMPT_GRAMMAR.values() if isinstance(choices, list) for word in choices}
    assert sorted(word for word in words if not says(text, word)) == []
