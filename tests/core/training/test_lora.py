"""Training a LoRA: the model stays, what is written is a LoRA of diffusers' form, and it does what was trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cogvideox_core import load_lora, load_transformer
from cogvideox_core.training.demo_world.world import make_scene, render
from tests.support.parity import assert_parity
from tests.support.training_runs import DIFFUSION, OPTIMISATION, losses, objective_of, train
from tools.old_film import old_film, write_clips

SHARED = {name: value for name, value in DIFFUSION.items() if name not in ("questions", "train_text_encoder")}
RECIPE = SHARED | {"lora": {"rank": 3}, "optimisation": OPTIMISATION}
FILE = "pytorch_lora_weights.safetensors"


def test_what_is_written_makes_the_model_that_was_trained(toy: Path, tmp_path: Path) -> None:
    trained = objective_of(RECIPE, toy, tmp_path / "run")
    base = {name: value.clone() for name, value in trained.transformer.state_dict().items() if ".lora." not in name}
    learning = [parameter for parameter in trained.parameters() if parameter.requires_grad]
    assert {min(parameter.shape) for parameter in learning} == {3}
    optimizer = torch.optim.SGD(learning, lr=1.0)
    for step in range(2):  # up is zero at first, so the first step moves it alone
        trained(trained.batch(step, range(4), 4))["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
    after = trained.transformer.state_dict()
    assert all(torch.equal(after[name], value) for name, value in base.items()), "the model itself has changed"
    trained.export(tmp_path / "out")
    assert [file.name for file in (tmp_path / "out").iterdir()] == [FILE]

    plain = load_transformer(toy / "transformer", dtype=torch.float32)
    latents, prompt = torch.randn(1, 16, 3, 4, 6), torch.randn(1, 24, plain.config.text_embed_dim)
    timestep = torch.tensor([600])
    with torch.no_grad():
        wanted, without = trained.transformer(latents, prompt, timestep), plain(latents, prompt, timestep)
        lora = load_lora(plain, tmp_path / "out" / FILE)
        assert not lora.unmatched and not lora.ignored
        assert_parity(plain(latents, prompt, timestep), wanted, 2e-3, "a trained LoRA, written in float16")
    assert (wanted - without).abs().max() > 1e-2, "nothing was learned"


def test_training_command_writes_a_lora_from_a_folder_of_clips(toy: Path, tmp_path: Path) -> None:
    write_clips(tmp_path / "clips", 4)
    plan = OPTIMISATION | {"steps": 20, "log_every": 5, "save_every": 20, "learning_rate": 1e-2}
    train(RECIPE | {"optimisation": plan}, tmp_path / "run", toy, "--clips", str(tmp_path / "clips"))
    first, *_, last = losses(tmp_path / "run")
    assert last < first
    tensors = load_file(tmp_path / "run" / "model" / FILE)
    assert {name.split(".")[0] for name in tensors} == {"transformer"}
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    ends = {name.split("transformer_blocks.")[1].partition(".")[2] for name in tensors}
    layers = [f"attn1.{end}" for end in ("to_q", "to_k", "to_v", "to_out.0")]
    assert ends == {f"{layer}.lora_{part}.weight" for layer in layers for part in "AB"}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"lora": {"rank": 0}}, "lora has rank 0; it takes 1 or more, 4 to 128 is usual"),
        ({"lora": {"rank": 4, "layers": ["to_w"]}}, "lora names the layers to_w; no block has one of them"),
        ({"train_text_encoder": True}, "lora trains beside a model that stays; leave out transformer and"),
        ({"lora": {"size": 4}}, "lora has no field size; it takes rank, layers"),
    ],
)
def test_what_is_no_lora_is_told(changes: dict, sentence: str, toy: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=sentence):
        objective_of(RECIPE | changes, toy, tmp_path / "run")


def test_old_films_are_brown_and_as_bright_as_before() -> None:
    video = render(make_scene(7))
    film = old_film(video)
    red, green, blue = film
    assert (red >= green).all() and (green >= blue).all()
    assert film.min() >= 0 and film.max() <= 1
    pairs = torch.stack(
        [red.flatten(), (video * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1, 1)).sum(0).flatten()]
    )
    assert torch.corrcoef(pairs)[0, 1] > 0.999
