"""The pairs of a LoRA: the model's own weights stay, and the file that is written gives the model that was trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cogvideox_core import load_lora, load_transformer
from cogvideox_core.training.lora_pairs import add_pairs
from cogvideox_core.training.recipe import LoRAShape
from tests.support.parity import assert_parity
from tests.support.training_runs import LORA, LORA_FILE, objective_of


def test_new_pairs_change_nothing_and_are_all_that_is_trained(toy: Path) -> None:
    transformer = load_transformer(toy, dtype=torch.float32)
    inputs = torch.randn(1, 16, 3, 4, 6), torch.randn(1, 24, 32), torch.tensor([600])
    before = transformer(*inputs)
    pairs = add_pairs(transformer, LoRAShape(rank=3, layers=("to_q", "ff.net.2")))
    ends = ("0.attn1.to_q", "0.ff.net.2", "1.attn1.to_q", "1.ff.net.2")
    assert list(pairs) == [f"transformer_blocks.{end}" for end in ends]
    assert_parity(transformer(*inputs), before, 1e-5, "a transformer with new pairs")
    trained = {id(parameter) for parameter in transformer.parameters() if parameter.requires_grad}
    assert trained == {id(parameter) for pair in pairs.values() for parameter in (pair.down, pair.up)}


def test_a_pair_adds_up_times_down(toy: Path) -> None:
    transformer = load_transformer(toy, dtype=torch.float32)
    name, pair = next(iter(add_pairs(transformer, LoRAShape(rank=3)).items()))
    layer = transformer.get_submodule(name)
    x = torch.randn(2, 5, layer.in_features)
    plain = torch.nn.functional.linear(x, layer.weight, layer.bias)
    torch.nn.init.normal_(pair.up)
    assert_parity(layer(x), plain + x @ (pair.up @ pair.down).T, 1e-5, "a layer with its pair")


def test_what_is_written_makes_the_model_that_was_trained(toy: Path, tmp_path: Path) -> None:
    trained = objective_of(LORA, toy, tmp_path / "run")
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
    assert [file.name for file in (tmp_path / "out").iterdir()] == [LORA_FILE]

    plain = load_transformer(toy / "transformer", dtype=torch.float32)
    latents, prompt = torch.randn(1, 16, 3, 4, 6), torch.randn(1, 24, plain.config.text_embed_dim)
    timestep = torch.tensor([600])
    with torch.no_grad():
        wanted, without = trained.transformer(latents, prompt, timestep), plain(latents, prompt, timestep)
        lora = load_lora(plain, tmp_path / "out" / LORA_FILE)
        assert not lora.unmatched and not lora.ignored
        assert_parity(plain(latents, prompt, timestep), wanted, 2e-3, "a trained LoRA, written in float16")
    assert (wanted - without).abs().max() > 1e-2, "nothing was learned"


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        (LoRAShape(rank=0), "lora has rank 0; it takes 1 or more, 4 to 128 is usual"),
        (LoRAShape(rank=4, layers=("to_w",)), "lora names the layers to_w; no block has one of them"),
        (LoRAShape(rank=4, layers=("o_q",)), "lora names the layers o_q; no block has one of them"),
    ],
)
def test_what_is_no_lora_is_refused(shape: LoRAShape, sentence: str, toy: Path) -> None:
    with pytest.raises(ValueError, match=sentence):
        add_pairs(load_transformer(toy, dtype=torch.float32), shape)
