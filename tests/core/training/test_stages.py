"""From a recipe to a trained model: each stage writes what the next one starts from, and refuses what cannot work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cogvideox_core import VARIANTS, load_pipeline, load_transformer
from cogvideox_core.training.demo_world.world_clips import WorldClips
from cogvideox_core.training.recipe import parse_recipe
from cogvideox_core.training.stages import Folders, make_objective
from tests.support.training_runs import DIFFUSION, LORA, LORA_FILE, OPTIMISATION, TEXT, losses, objective_of, train
from tools.old_film import write_clips


def test_a_diffusion_stage_writes_the_whole_official_layout(toy: Path, tmp_path: Path) -> None:
    objective = objective_of(DIFFUSION, toy, tmp_path / "run")
    objective.export(tmp_path / "out")
    parts = ["model_index.json", "scheduler", "text_encoder", "tokenizer", "transformer", "vae"]
    assert sorted(part.name for part in (tmp_path / "out").iterdir()) == parts
    again = load_transformer(tmp_path / "out", dtype=torch.float32)
    for name, tensor in objective.transformer.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor.half().float()), name


def test_a_text_stage_hands_on_the_vae(toy: Path, tmp_path: Path) -> None:
    recipe = parse_recipe({name: value for name, value in TEXT.items() if name != "text_encoder"})
    make_objective(recipe, WorldClips(), Folders(toy, tmp_path, tmp_path)).export(tmp_path / "out")
    assert sorted(part.name for part in (tmp_path / "out").iterdir()) == ["text_encoder", "tokenizer", "vae"]


def test_the_same_seed_makes_the_same_models(toy: Path, tmp_path: Path) -> None:
    shape = {"num_attention_heads": 2, "num_layers": 1, "time_embed_dim": 8, "text_embed_dim": 32}
    made = [objective_of(DIFFUSION | {"transformer": shape}, toy, tmp_path).state_dict() for _ in range(2)]
    other = DIFFUSION | {"transformer": shape, "optimisation": OPTIMISATION | {"seed": 1}}
    name = "transformer.patch_embed.proj.weight"
    assert all(torch.equal(made[1][name], tensor) for name, tensor in made[0].items())
    assert not torch.equal(objective_of(other, toy, tmp_path).state_dict()[name], made[0][name])


@pytest.mark.parametrize(
    ("recipe", "sentence"),
    [
        (DIFFUSION | {"variant": "CogVideoX-6B"}, "variant is 'CogVideoX-6B'; it is one of CogVideoX-2B, CogVideoX-5B"),
        (LORA | {"train_text_encoder": True}, "lora trains a LoRA for a model that stays as it is; leave out"),
        (LORA | {"transformer": {"num_layers": 1}}, "lora trains a LoRA for a model that stays as it is; leave out"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused(recipe: dict[str, Any], sentence: str, toy: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=sentence):
        objective_of(recipe, toy, tmp_path)


@pytest.mark.slow
def test_text_to_video_widens_into_image_to_video(toy: Path, tmp_path: Path) -> None:
    shape = {"sample_height": 6, "sample_width": 6, "sample_frames": 9}
    recipe = DIFFUSION | {"transformer": {"num_attention_heads": 2, "num_layers": 1, "time_embed_dim": 8, **shape}}
    recipe["transformer"]["text_embed_dim"] = 32
    recipe["buckets"] = [{"num_frames": 9, "height": 48, "width": 48, "count": 4, "share": 1.0}]
    train(recipe, tmp_path / "text", toy)
    del recipe["transformer"]
    train(recipe | {"variant": "CogVideoX-5B-I2V"}, tmp_path / "image", tmp_path / "text" / "model")
    widened = load_transformer(tmp_path / "image" / "model")
    assert widened.variant is VARIANTS["CogVideoX-5B-I2V"]
    assert widened.config.in_channels == 32 and widened.config.use_learned_positional_embeddings
    assert widened.state_dict()["patch_embed.proj.weight"][:, 16:].any(), "the image channels have learned nothing"
    pipeline = load_pipeline(tmp_path / "image" / "model", dtype=torch.float32, device="cpu")
    video = pipeline("a red ball", image=torch.rand(3, 48, 48), num_inference_steps=2)
    assert video.shape == (1, 3, 9, 48, 48) and video.isfinite().all()


@pytest.mark.slow
def test_a_lora_is_trained_on_a_folder_of_clips(toy: Path, tmp_path: Path) -> None:
    write_clips(tmp_path / "clips", 4)
    optimisation = OPTIMISATION | {"steps": 20, "log_every": 5, "save_every": 20, "learning_rate": 1e-2}
    recipe = LORA | {"optimisation": optimisation, "buckets": DIFFUSION["buckets"][:1]}
    recipe["buckets"] = [recipe["buckets"][0] | {"share": 1.0}]
    train(recipe, tmp_path / "run", toy, "--clips", str(tmp_path / "clips"))
    first, *_, last = losses(tmp_path / "run")
    assert last < first
    tensors = load_file(tmp_path / "run" / "model" / LORA_FILE)
    assert {name.split(".")[0] for name in tensors} == {"transformer"}
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    ends = {name.split("transformer_blocks.")[1].partition(".")[2] for name in tensors}
    layers = [f"attn1.{end}" for end in ("to_q", "to_k", "to_v", "to_out.0")]
    assert ends == {f"{layer}.lora_{part}.weight" for layer in layers for part in "AB"}
