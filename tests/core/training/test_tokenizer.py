"""A trained tokenizer: frequent words are one piece, every other word can be spelled."""

from __future__ import annotations

from pathlib import Path

import torch

from cogvideox_core.training.demo_world.captions import caption
from cogvideox_core.training.demo_world.world import make_scene
from cogvideox_core.training.tokenizer import train_tokenizer
from cogvideox_core.weights.t5 import load_tokenizer


def test_a_new_tokenizer_knows_frequent_words_and_spells_the_others(tmp_path: Path) -> None:
    sentences = [caption(make_scene(seed), seed) for seed in range(2000)]
    size = train_tokenizer(sentences, tmp_path / "tokenizer", 400)
    tokenizer = load_tokenizer(tmp_path / "tokenizer", size)
    ids = tokenizer("a red ball", return_tensors="pt").input_ids[0]
    assert ids[-1] == 1 and "\u2581ball" in tokenizer.tokenize("a red ball"), "a frequent word is not one piece"
    assert torch.equal(ids, tokenizer("A RED Ball", return_tensors="pt").input_ids[0])
    unknown = tokenizer("xylophone 42!", return_tensors="pt").input_ids[0]
    assert 2 not in unknown, "a word cannot be spelled"
    assert len(tokenizer) <= size
