"""Adapters on a transformer: stacked, removed, over weights of few bits, and where weights cannot be changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cogvideox_core import load_lora, load_transformer
from cogvideox_core.kernels import layers
from cogvideox_core.weights.packed_weight import PackedWeight, is_quantizable, quantize
from tests.support.adapter_forms import CONFIG, FORMS, base, inputs
from tests.support.checkpoints import random_transformer
from tests.support.lora_forms import pairs_of, save, to_peft
from tests.support.parity import assert_parity, relative_difference, snr_db

FEW = ["LoKr, PEFT", "DoRA, PEFT", "OFT, PEFT", "LoHa, LyCORIS", "BOFT, LyCORIS", "differences, LyCORIS"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    base().save_pretrained(folder)
    return folder


def theirs(weights: dict[str, Tensor]) -> Any:
    """diffusers' transformer with other weights than its own."""
    model = random_transformer(CONFIG)
    model.load_state_dict(weights)
    return model


@pytest.mark.parametrize("form", FEW)
def test_each_changes_what_those_before_it_left(form: str, folder: Path, tmp_path: Path) -> None:
    ours = load_transformer(folder, dtype="float32")
    pairs = pairs_of(ours)
    weights = {key: tensor.clone() for key, tensor in base().state_dict().items()}
    for name, (up, down) in pairs.items():
        weights[f"{name}.weight"] += 0.5 * up @ down
    adapted = FORMS[form].make(theirs(weights), tmp_path / "adapter")
    plain = ours(*inputs())
    first = load_lora(ours, save(to_peft(pairs), tmp_path / "lora.safetensors"), 0.5)
    second = load_lora(ours, adapted.path)
    assert_parity(ours(*inputs()), adapted(), 2e-5, f"{form} on top of a LoRA")
    first.remove()
    second.remove()
    assert torch.equal(ours(*inputs()), plain)


@pytest.mark.parametrize("form", FEW)
@pytest.mark.parametrize("codec", ["int8", "fp8", "Q8_0", "Q4_0"])
def test_weights_of_few_bits_are_changed_as_they_are_read(form: str, codec: str, folder: Path, tmp_path: Path) -> None:
    small = load_transformer(folder, dtype="float32")
    decoded: dict[str, Tensor] = {}
    for key in filter(is_quantizable, small.state_dict()):
        layer = small.get_submodule(key.removesuffix(".weight"))
        packed = quantize(small.state_dict()[key], codec)
        layer.weight, decoded[key] = nn.Parameter(packed, requires_grad=False), packed.dequantize()
    adapted = FORMS[form].make(theirs(small.state_dict() | decoded), tmp_path / "adapter")
    plain = small(*inputs())
    lora = load_lora(small, adapted.path)
    assert relative_difference(adapted(), plain) > 0.01
    assert_parity(small(*inputs()), adapted(), 2e-5, f"{form} on {codec}")
    assert all(isinstance(small.state_dict()[key], PackedWeight) for key in decoded)
    lora.remove()
    assert torch.equal(small(*inputs()), plain)


def test_weights_that_are_multiplied_in_8_bits_are_decoded_for_it(folder: Path, tmp_path: Path) -> None:
    adapted = FORMS["DoRA, PEFT"].make(base(), tmp_path / "adapter")
    model = load_transformer(folder, dtype="float32", quantize="int8")
    load_lora(model, adapted.path)
    assert snr_db(model(*inputs()), adapted()) > 35


@pytest.mark.parametrize("form", ["LoKr, PEFT", "DoRA, PEFT"])
def test_weights_in_16_bits_are_near(form: str, folder: Path, tmp_path: Path) -> None:
    adapted = FORMS[form].make(base(), tmp_path / "adapter")
    ours = load_transformer(folder, dtype="bfloat16")
    load_lora(ours, adapted.path)
    latents, prompt, timestep = inputs()
    found = ours(latents.bfloat16(), prompt.bfloat16(), timestep)
    assert found.dtype == torch.bfloat16
    assert_parity(found, adapted(), 5e-2, f"{form} in bfloat16")


@pytest.mark.parametrize("form", ["LoKr, PEFT", "LoHa, PEFT"])
def test_sums_go_on_weights_that_cannot_be_read(form: str, folder: Path, tmp_path: Path) -> None:
    adapted = FORMS[form].make(base(), tmp_path / "adapter")
    read, unread = load_transformer(folder, dtype="float32"), load_transformer(folder, quantize="llm.int8")
    plain = [model(*inputs()) for model in (read, unread)]
    loras = [load_lora(model, adapted.path, 2.0) for model in (read, unread)]
    changes = [model(*inputs()) - before for model, before in zip((read, unread), plain, strict=True)]
    assert snr_db(changes[1], changes[0]) > 15
    loras[1].remove()
    assert torch.equal(unread(*inputs()), plain[1])


@pytest.mark.parametrize("form", ["DoRA, PEFT", "OFT, PEFT", "LoRA with lora_bias, PEFT"])
def test_others_say_so_and_change_nothing(form: str, folder: Path, tmp_path: Path) -> None:
    adapted = FORMS[form].make(base(), tmp_path / "adapter")
    model = load_transformer(folder, quantize="llm.int8")
    plain = model(*inputs())
    with pytest.raises(ValueError, match=r"changes the weights of .*Linear8bitLt and cannot be read; take another"):
        load_lora(model, adapted.path)
    assert torch.equal(model(*inputs()), plain)
    assert not any(getattr(module, "deltas", ()) for module in model.modules())


@pytest.mark.parametrize("layer", [layers.Linear(6, 4), layers.LayerNorm(6), layers.Conv2d(2, 4, 2, stride=2)])
def test_a_layer_with_changed_weights_is_the_layer_with_these_weights(layer: Any) -> None:
    class Doubled:
        changes_weights = True

        def __call__(self, *call: Any) -> Tensor:
            raise AssertionError("the layer multiplies by changed weights instead")

        def changed(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
            return 2 * weight, bias + 1

    x = torch.randn(3, 2, 6, 6)
    layer.requires_grad_(False)
    layer.deltas = (Doubled(), Doubled())
    found = layer(x)
    assert getattr(layer, "kernel_weights", lambda x: None)(x) is None, "a kernel would read the layer's own weights"
    layer.deltas = ()
    layer.weight.mul_(4)
    layer.bias.add_(2)
    assert_parity(found, layer(x), 1e-6, type(layer).__name__)
