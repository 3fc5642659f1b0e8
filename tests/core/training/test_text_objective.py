"""The text stage: every token learns to answer what is asked about a caption."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cogvideox_core.training.clips import FolderClips
from cogvideox_core.training.demo_world.world_clips import WorldClips
from cogvideox_core.training.recipe import TextRecipe, parse_recipe
from cogvideox_core.training.text_model import load_text_model
from cogvideox_core.training.text_objective import TextObjective
from tests.support.parity import relative_difference
from tests.support.training_runs import TEXT, losses, train


def recipe_with(**changes: object) -> TextRecipe:
    recipe = parse_recipe({**TEXT, "text_encoder": None, **changes})
    assert isinstance(recipe, TextRecipe)
    return recipe


def objective_of(toy: Path, **changes: object) -> TextObjective:
    return TextObjective(load_text_model(toy), WorldClips(), recipe_with(**changes), write=lambda _: None)


def test_a_batch_has_captions_of_one_length_and_their_answers(toy: Path) -> None:
    objective = objective_of(toy)
    lengths = [objective.batch(step, range(1), 1)[0].shape[1] for step in range(60)]
    assert set(lengths) == {24, 40} and lengths.count(24) > lengths.count(40), "short ones are not drawn more often"
    tokens, answers = objective.batch(3, range(48), 48)
    assert len(tokens) == 48 and answers.shape == (48, len(WorldClips.questions))
    for column, choices in zip(answers.T, WorldClips.questions.values(), strict=True):
        assert 0 <= column.min() and column.max() < len(choices)
    half = objective.batch(3, range(24, 48), 48)
    assert torch.equal(half[0], tokens[24:]) and torch.equal(half[1], answers[24:])


def test_dropout_leaves_prompts_empty(toy: Path) -> None:
    objective = objective_of(toy, dropout=1.0)
    tokens, _ = objective.batch(0, range(4), 4)
    empty = objective.tokenize([""], tokens.shape[1])
    assert torch.equal(tokens, empty.expand_as(tokens))
    tokens, _ = objective_of(toy, dropout=0.0).batch(0, range(4), 4)
    assert not (tokens == empty).all(dim=1).any()


def test_answers_that_are_all_right_are_counted_as_such(toy: Path) -> None:
    objective = objective_of(toy, dropout=0.0)
    tokens, answers = objective.batch(0, range(1), 1)
    with torch.no_grad():
        torch.nn.init.zeros_(objective.answer.weight)
        torch.nn.init.zeros_(objective.answer.bias)
        undecided = objective((tokens, answers))
        chances = [1 / len(choices) for choices in WorldClips.questions.values()]
        wanted = -torch.tensor(chances).log().mean()
        assert undecided["loss"].item() == pytest.approx(wanted.item(), rel=1e-3)
        rows = torch.cumsum(torch.tensor([0, *objective.choices[:-1]]), dim=0) + answers[0]
        objective.answer.bias.fill_(-50.0)[rows] = 50.0
        right = objective((tokens, answers))
    assert right["right"] == 1 and right["loss"] < 1e-3 and undecided["right"] < 1


def test_clips_without_answers_teach_no_text_encoder(toy: Path, tmp_path: Path) -> None:
    (tmp_path / "one.mp4").touch()
    (tmp_path / "one.txt").write_text("a star\n")
    with pytest.raises(ValueError, match="FolderClips know no answers to learn from; start from a model with a text"):
        TextObjective(load_text_model(toy), FolderClips(tmp_path), recipe_with(), write=lambda _: None)


@pytest.mark.slow
def test_every_token_learns_what_the_caption_says(toy: Path, tmp_path: Path) -> None:
    optimisation = TEXT["optimisation"] | {"steps": 200, "log_every": 50, "save_every": 200, "ema_decay": 0.9}
    train(TEXT | {"optimisation": optimisation, "dropout": 0.0}, tmp_path / "text", toy)
    first, *_, last = losses(tmp_path / "text")
    assert last < 0.8 * first
    text = load_text_model(tmp_path / "text" / "model")
    ids = text.tokenize(["a red ball", "a blue ball"], 40)
    red, blue = text.encoder(ids)[0]
    assert ids[0, -1] == ids[1, -1] == text.tokenizer.pad_token_id
    assert relative_difference(red[-1], blue[-1]) > 0.05, "the last padding token does not depend on the colour"
