"""Captions of the demo world, and so the words that prompts of the demo models may have.

`demo.PROMPT_GRAMMAR` is enough to write prompts; captions in training also use the synonyms, orders and stray words
below.
"""

from __future__ import annotations

import random

from ...demo import PROMPT_GRAMMAR
from .world import Scene, Thing

# Synonyms of the words of `demo.PROMPT_GRAMMAR`; the word itself is drawn as often as all of its synonyms together.
_COLOUR_WORDS = {
    "red": ("crimson", "scarlet"),
    "orange": ("tangerine",),
    "yellow": ("golden", "lemon yellow"),
    "green": ("emerald", "grass green"),
    "blue": ("royal blue", "cobalt"),
    "purple": ("violet",),
    "pink": ("rose", "light pink"),
    "white": ("snow white", "pale"),
}
_SHAPE_WORDS = {
    "ball": ("circle", "disc", "sphere", "round ball"),
    "square": ("box", "block", "cube"),
    "triangle": ("pyramid", "wedge"),
    "star": ("starlet", "five-pointed star"),
    "ring": ("hoop", "donut"),
}
_SIZE_WORDS = {"small": ("small", "little", "tiny"), "large": ("large", "big", "huge")}
_MOTION_WORDS = {
    "moving left": ("going left", "moving to the left", "sliding to the left", "flying left", "drifting leftwards"),
    "moving right": (
        "going right",
        "moving to the right",
        "sliding to the right",
        "flying right",
        "drifting rightwards",
    ),
    "moving up": ("going up", "moving upwards", "rising", "floating up", "flying up"),
    "moving down": ("going down", "moving downwards", "falling", "sinking", "coming down"),
    "standing still": ("staying still", "resting", "not moving", "staying in place", "motionless"),
    "bouncing": ("bouncing up and down", "hopping", "jumping", "jumping up and down"),
    "going in a circle": ("circling", "moving in a circle", "orbiting", "going round and round", "going around"),
    "growing": ("getting bigger", "getting larger", "becoming bigger", "expanding", "swelling"),
    "shrinking": ("getting smaller", "becoming smaller", "contracting", "dwindling"),
}
_FINITE_VERBS = {
    "moving left": ("moves left", "goes left", "slides to the left", "flies to the left"),
    "moving right": ("moves right", "goes right", "slides to the right", "flies to the right"),
    "moving up": ("moves up", "goes up", "rises", "floats up"),
    "moving down": ("moves down", "goes down", "falls", "sinks"),
    "standing still": ("stands still", "stays still", "does not move", "rests"),
    "bouncing": ("bounces", "hops", "jumps up and down"),
    "going in a circle": ("goes in a circle", "circles", "moves in a circle", "orbits"),
    "growing": ("grows", "gets bigger", "expands"),
    "shrinking": ("shrinks", "gets smaller", "contracts"),
}
_BACKGROUND_WORDS = {
    "a meadow": ("grass", "a field", "a lawn", "a grassy field"),
    "a desert": ("the desert", "sand", "sand dunes", "a sandy plain"),
    "the sea": ("the ocean", "water", "a lake"),
    "the night sky": ("the dark sky", "the night", "darkness", "a dark night sky", "space"),
    "a wooden wall": ("a wall", "a wood wall", "wooden boards", "planks"),
    "a sunset": ("the sunset", "an evening sky", "a dusk sky", "the evening sky"),
}
_PREPOSITIONS = ("in front of", "before", "over", "against", "on", "with {} behind it", "at")
_STRAY_WORDS = (
    "a video of", "an animation of", "a clip showing", "cinematic", "high quality", "beautiful", "slowly", "smoothly",
    "please", "very", "4k", "in the scene", "there is", "we see", "simple", "colourful", "nice", "happily",
)  # fmt: skip
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_SIZE_SAID = 0.5  # share of objects whose size is named


def prompt_of(scene: Scene) -> str:
    """The plain prompt of a scene with one object, as PROMPT_GRAMMAR spells it."""
    (thing,) = scene.things
    template = str(PROMPT_GRAMMAR["template"])
    return template.format(colour=thing.colour, shape=thing.shape, motion=thing.motion, background=scene.background)


def caption(scene: Scene, seed: int, *, moving: bool = True) -> str:
    """A caption as a person might write it: synonyms, any order, sometimes a word without meaning.

    Args:
        scene: what is seen.
        seed: which of the many captions; the same seed gives the same one.
        moving: whether it says how the objects move; a single picture shows no motion.
    """
    chance = random.Random(f"caption {seed}")
    if chance.random() < 0.25 and len(scene.things) == 1 and moving:
        text = prompt_of(scene)
    else:
        text = _free(scene, chance, moving)
    if chance.random() < 0.1:
        text = _with_stray_word(text, chance)
    if chance.random() < 0.3:
        text = text[0].upper() + text[1:]
    return text + "." if chance.random() < 0.3 else text


def _free(scene: Scene, chance: random.Random, moving: bool) -> str:
    phrases = [_thing(thing, chance, moving) for thing in scene.things]
    objects = " and ".join(phrases) if chance.random() < 0.8 else ", ".join(phrases)
    background = _word(scene.background, _BACKGROUND_WORDS, chance)
    if chance.random() < 0.08:
        return objects
    order = chance.random()
    if order < 0.2:
        return f"{background}, {objects}"
    if order < 0.3:
        return f"{objects}, {background.removeprefix('a ').removeprefix('the ')}"
    preposition = chance.choice(_PREPOSITIONS)
    where = preposition.format(background) if "{}" in preposition else f"{preposition} {background}"
    return f"{where}, {objects}" if order < 0.45 else f"{objects} {where}"


def _thing(thing: Thing, chance: random.Random, moving: bool) -> str:
    colour = _word(thing.colour, _COLOUR_WORDS, chance)
    shape = _word(thing.shape, _SHAPE_WORDS, chance)
    size = chance.choice(_SIZE_WORDS[thing.size]) if chance.random() < _SIZE_SAID else ""
    if chance.random() < 0.1:
        noun = " ".join(filter(None, (size, shape, "that is", colour)))
    else:
        noun = " ".join(filter(None, (size, colour, shape)))
    article = chance.choices((_article(noun), "a", "the", "one", ""), (6, 1, 2, 0.5, 1.5))[0]
    noun = f"{article} {noun}".strip()
    if not moving:
        return noun
    style = chance.random()
    if style < 0.6:
        return f"{noun} {_word(thing.motion, _MOTION_WORDS, chance)}"
    if style < 0.7:
        return f"{noun} is {_word(thing.motion, _MOTION_WORDS, chance)}"
    if style < 0.75:
        return f"{_word(thing.motion, _MOTION_WORDS, chance)}: {noun}"
    return f"{noun} {chance.choice(_FINITE_VERBS[thing.motion])}"


def _word(word: str, synonyms: dict[str, tuple[str, ...]], chance: random.Random) -> str:
    return word if chance.random() < 0.5 else chance.choice(synonyms[word])


def _article(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"


def _with_stray_word(text: str, chance: random.Random) -> str:
    """The text with a word that no scene shows, somewhere: people's prompts are full of such words."""
    if chance.random() < 0.6:
        stray = chance.choice(_STRAY_WORDS)
    else:
        stray = "".join(chance.choices(_LETTERS, k=chance.randint(2, 9)))
    words = text.split(" ")
    at = chance.choice((0, len(words), chance.randint(0, len(words))))
    return " ".join([*words[:at], stray, *words[at:]])
