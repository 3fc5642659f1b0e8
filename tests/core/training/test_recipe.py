"""Recipes: JSON becomes dataclasses, and what does not fit is said in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cogvideox_core.training.recipe import (
    RECIPES,
    AutoencoderRecipe,
    Bucket,
    DiffusionRecipe,
    Focus,
    LoRAShape,
    Phase,
    TextRecipe,
    find_recipe,
    parse_recipe,
)
from tests.support.training_runs import AUTOENCODER, DIFFUSION, OPTIMISATION

NAMES = sorted(path.stem for path in RECIPES.glob("*.json"))


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_recipe_is_read_whole(name: str) -> None:
    values = find_recipe(name)
    assert values == json.loads((RECIPES / f"{name}.json").read_text(encoding="utf-8"))
    recipe = parse_recipe(values)
    assert recipe.optimisation.steps == values["optimisation"]["steps"]
    assert recipe.optimisation.batch_size == values["optimisation"]["batch_size"]


def test_objects_and_lists_become_dataclasses_and_tuples() -> None:
    recipe = parse_recipe(
        DIFFUSION | {"focus": {"low": 500, "share": 0.5}, "lora": {"rank": 4, "layers": ["to_q"]}, "text_encoder": None}
    )
    assert isinstance(recipe, DiffusionRecipe)
    assert recipe.buckets == (Bucket(9, 32, 48, count=4, share=0.5), Bucket(1, 48, 48, count=4, share=0.5, first=10))
    assert recipe.focus == Focus(500, 1000, 0.5) and recipe.lora == LoRAShape(4, ("to_q",))
    assert recipe.text_encoder is None and recipe.optimisation.warmup_steps == 1
    autoencoder = parse_recipe(AUTOENCODER | {"zooms": [1, 3], "optimisation": OPTIMISATION | {"betas": [0.9, 0.99]}})
    assert isinstance(autoencoder, AutoencoderRecipe)
    assert autoencoder.phases[1] == Phase(4, 17, 32, 24) and autoencoder.zooms == (1, 3)
    assert autoencoder.optimisation.betas == (0.9, 0.99)
    text = parse_recipe({"stage": "text", "text_tokens": [24, 226], "optimisation": OPTIMISATION})
    assert isinstance(text, TextRecipe) and text.text_tokens == (24, 226)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"stage": "dreaming"}, "stage is 'dreaming'; it is one of autoencoder, text, diffusion"),
        ({"stage": ["text"]}, r"stage is \['text'\]; it is one of"),
        ({"lr": 1}, "recipe has no field lr; it takes optimisation, buckets"),
        ({"optimisation": {"steps": 1}}, "optimisation: .*missing 2 required.*'batch_size' and 'learning_rate'"),
        ({"questions": {"depth": 3}}, "questions has no field depth; it takes after_block, weight"),
        ({"optimisation": 3}, "optimisation is 3; it takes an object"),
        ({"buckets": [{"num_frames": 9, "height": 8, "width": 8, "count": 1, "share": 0.5}]}, "add up to 0.5; make it"),
        ({"buckets": [{"num_frames": 9, "height": 8, "width": 8, "count": 1}]}, "buckets: .*missing 1 .*'share'"),
        ({"buckets": {"num_frames": 9}}, r"recipe has buckets \{'num_frames': 9\}; it takes a list"),
        ({"timesteps": "some"}, "timesteps is 'some'; it is one of explicit_uniform, independent"),
        ({"optimisation": OPTIMISATION | {"steps": "many"}}, "optimisation has steps 'many'; it takes a whole number"),
        ({"optimisation": OPTIMISATION | {"betas": [0.9]}}, "optimisation has 1 betas; it takes 2"),
        ({"optimisation": OPTIMISATION | {"betas": [0.9, "x"]}}, "optimisation has betas 'x'; it takes a number"),
        ({"optimisation": OPTIMISATION | {"muon_learning_rate": "x"}}, "has muon_learning_rate 'x'; it takes a number"),
        ({"recompute": 1}, "recipe has recompute 1; it takes true or false"),
        ({"transformer": 5}, "recipe has transformer 5; it takes an object"),
        ({"lora": {"size": 4}}, "lora has no field size; it takes rank, layers"),
        ({"clip_fps": "fast"}, "clip_fps is 'fast'; it is one of model, every, or a number"),
        ({"clip_fps": True}, "clip_fps is True; it is one of model, every, or a number"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        parse_recipe(DIFFUSION | change)


def test_phases_last_as_long_as_the_training_run() -> None:
    with pytest.raises(ValueError, match="phases end at step 4 of 5; let the last one go on until 5"):
        parse_recipe(AUTOENCODER | {"optimisation": OPTIMISATION | {"steps": 5}})


def test_a_recipe_is_found_by_name_or_path(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no recipe 'demo'; give a JSON file or one of demo-"):
        find_recipe("demo")
    file = tmp_path / "own.json"
    file.write_text(json.dumps(DIFFUSION))
    assert find_recipe(str(file)) == DIFFUSION
    file.write_text("[1]")
    with pytest.raises(ValueError, match="own.json holds a list; a recipe is an object"):
        find_recipe(str(file))
    file.write_text("{")
    with pytest.raises(ValueError, match="own.json is no JSON"):
        find_recipe(str(file))
