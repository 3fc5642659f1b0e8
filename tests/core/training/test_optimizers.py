"""Which optimizer gets which weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import Linear

from cogvideox_core import load_transformer
from cogvideox_core.training.optimizers import make_optimizers
from cogvideox_core.training.recipe import Optimisation

SETTINGS = Optimisation(steps=1, batch_size=1, learning_rate=1e-3, betas=(0.8, 0.9), weight_decay=0.25)
WITH_MUON = Optimisation(steps=1, batch_size=1, learning_rate=1e-3, muon_learning_rate=2e-3)


def parameters_of(optimizer: torch.optim.Optimizer) -> list[torch.nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def test_adamw_gets_everything_that_is_trained(toy: Path) -> None:
    transformer = load_transformer(toy, dtype=torch.float32).requires_grad_(True)
    transformer.patch_embed.requires_grad_(False)
    (adam,) = make_optimizers(transformer, SETTINGS)
    assert isinstance(adam, torch.optim.AdamW)
    trained = [parameter for parameter in transformer.parameters() if parameter.requires_grad]
    assert list(map(id, parameters_of(adam))) == list(map(id, trained))
    assert (adam.defaults["lr"], adam.defaults["betas"], adam.defaults["weight_decay"]) == (1e-3, (0.8, 0.9), 0.25)


def test_muon_gets_the_matrices_of_blocks_and_adamw_the_rest(toy: Path) -> None:
    if not hasattr(torch.optim, "Muon"):
        return  # what PyTorch before 2.9 says is tested below
    transformer = load_transformer(toy, dtype=torch.float32).requires_grad_(True)
    names = {id(parameter): name for name, parameter in transformer.named_parameters()}
    muon, adam = make_optimizers(transformer, WITH_MUON)
    by_muon = {names[id(parameter)] for parameter in parameters_of(muon)}
    layers = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "ff.net.0.proj", "ff.net.2")
    blocks = range(len(transformer.transformer_blocks))
    assert by_muon == {f"transformer_blocks.{block}.{layer}.weight" for block in blocks for layer in layers}
    assert {names[id(parameter)] for parameter in parameters_of(adam)} == set(names.values()) - by_muon
    assert muon.defaults["lr"] == 2e-3


def test_a_pytorch_without_muon_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.optim, "Muon", raising=False)
    with pytest.raises(ValueError, match="has no Muon; install 2.9 or leave it out"):
        make_optimizers(Linear(2, 2), WITH_MUON)
