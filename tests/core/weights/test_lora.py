"""LoRAs of every program: the model they make is the one whose weights were added to by hand, and PEFT's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from cogvideox_core import load_lora, load_transformer
from cogvideox_core.models.transformer.model import CogVideoXTransformer3D
from cogvideox_core.weights.errors import CheckpointError
from cogvideox_core.weights.lora import module_shapes, read_lora, weight_shapes
from tests.support.checkpoints import random_transformer, toy_transformer_config
from tests.support.lora_forms import ALPHA, FORMS, RANK, Pairs, kohya, pairs_of, save, to_peft, with_metadata
from tests.support.parity import assert_parity, relative_difference, snr_db
from tests.support.weight_forms import QUANTIZED, deepspeed_states, prefixed, random_states

STRENGTH = 0.7


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    state = random_transformer(toy_transformer_config("CogVideoX1.5-5B", text_embed_dim=64)).state_dict()
    return prefixed("")(state, tmp_path_factory.mktemp("base"))


def run(model: CogVideoXTransformer3D) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    latents, prompt = torch.randn(2, 16, 4, 6, 8, generator=generator), torch.randn(2, 7, 64, generator=generator)
    return model(latents, prompt, torch.tensor([300, 900]))


def by_hand(base: Path, pairs: Pairs, factor: float) -> Tensor:
    """The output of the model with `factor` times every product added to its weights."""
    model = load_transformer(base, dtype="float32")
    for name, (up, down) in pairs.items():
        module = model.get_submodule(name)
        module.weight = torch.nn.Parameter(module.weight + factor * up @ down, requires_grad=False)  # type: ignore[operator]
    return run(model)


@pytest.mark.parametrize("form", FORMS)
def test_a_lora_is_what_it_is_by_hand(form: str, base: Path, tmp_path: Path) -> None:
    write, layers, scale, others = FORMS[form]
    model = load_transformer(base, dtype="float32")
    plain, pairs = run(model), pairs_of(model, layers)
    lora = load_lora(model, write(pairs, tmp_path / "lora.safetensors"), STRENGTH)
    wanted = by_hand(base, pairs, STRENGTH * scale)
    assert relative_difference(wanted, plain) > 0.05, "the LoRA of the test changes nothing"
    assert_parity(run(model), wanted, 2e-5, f"LoRA, {form}")
    per_layer = 3 if form in ("kohya", "VideoX-Fun") else 2
    assert len(lora.matched) == per_layer * len(pairs) and lora.unmatched == [] and len(lora.ignored) == others
    lora.remove()
    assert torch.equal(run(model), plain)


def test_diffusers_and_peft_do_the_same_with_a_file(tmp_path: Path) -> None:
    config = toy_transformer_config("CogVideoX-2B", text_embed_dim=64, max_text_seq_length=7)
    random_transformer(config).save_pretrained(tmp_path / "model")
    model = load_transformer(tmp_path / "model", dtype="float32")
    patterns = {
        "rank_pattern": {"to_v": 2, "transformer_blocks.1.attn1.to_v": 3},  # the first that fits counts
        "alpha_pattern": {"0.attn1.to_q": 16.0, r"attn1\..*": 4.0},
        "use_rslora": True,
    }
    no_patterns: dict[str, Any] = {"rank_pattern": {}, "alpha_pattern": {}}  # as PEFT writes them
    for name, more in (("plain", None), ("declared", no_patterns), ("patterns", patterns)):
        pairs = pairs_of(model)
        if more is patterns:
            pairs = {key: (up[:, :2], down[:2]) if "to_v" in key else (up, down) for key, (up, down) in pairs.items()}
        told = {"r": RANK, "lora_alpha": ALPHA, "target_modules": ["to_q", "to_k", "to_v", "to_out.0"], **(more or {})}
        told = {f"transformer.{key}": value for key, value in told.items()}
        header = {} if more is None else {"metadata": {"lora_adapter_metadata": json.dumps(told)}}
        path = save(to_peft(pairs), tmp_path / f"{name}.safetensors", **header)
        lora, reference = load_lora(model, path), random_transformer(config)
        options: dict[str, Any] = {} if more is None else {"metadata": told}
        reference.load_lora_adapter(load_file(path), prefix="transformer", adapter_name=name, **options)
        latents, prompt = torch.randn(2, 16, 4, 6, 8), torch.randn(2, 7, 64)
        theirs = reference(latents.transpose(1, 2), prompt, torch.tensor([300, 900])).sample.transpose(1, 2)
        ours = model(latents, prompt, torch.tensor([300, 900]))
        assert_parity(ours, theirs, 2e-5, f"LoRA in PEFT, {name}")
        lora.remove()


def test_a_lora_that_sat_trained_has_random_states_and_other_models_beside_it(base: Path, tmp_path: Path) -> None:
    model = load_transformer(base, dtype="float32")
    path = FORMS["SAT"][0](pairs_of(model), tmp_path / "lora.safetensors")
    module = torch.load(path)["module"]
    plain = load_lora(model, path)
    module |= {"first_stage_model.encoder.conv_in.conv.weight": torch.zeros(2), "conditioner.x.weight": torch.zeros(2)}
    torch.save(deepspeed_states(module, **random_states()), path)
    trained = load_lora(model, path)
    assert trained.matched == plain.matched and not trained.unmatched
    assert set(trained.ignored) - set(plain.ignored) == {key for key in module if key.startswith(("first_", "cond"))}


# --- What can be done with it -------------------------------------------------------------------------------------


def test_loras_stack_and_their_strengths_change_at_once(base: Path, tmp_path: Path) -> None:
    model = load_transformer(base, dtype="float32")
    plain, one, other = run(model), pairs_of(model, seed=1), pairs_of(model, seed=2)
    first = load_lora(model, save(to_peft(one), tmp_path / "one.safetensors"), 0.5)
    second = load_lora(model, save(to_peft(other), tmp_path / "other.safetensors"), -0.3)
    both = {name: (torch.cat([0.5 * up, -0.3 * other[name][0]], 1), torch.cat([down, other[name][1]]))
            for name, (up, down) in one.items()}  # fmt: skip
    assert_parity(run(model), by_hand(base, both, 1.0), 2e-5, "two LoRAs")
    second.strength = 0.0
    assert_parity(run(model), by_hand(base, one, 0.5), 2e-5, "one of them off")
    first.strength = 1.5
    assert_parity(run(model), by_hand(base, one, 1.5), 2e-5, "another strength")
    first.strength = 0.0
    assert torch.equal(run(model), plain)


def test_a_file_is_read_once_for_the_check_and_the_model(base: Path, tmp_path: Path) -> None:
    model = load_transformer(base, dtype="float32")
    pairs, plain = pairs_of(model), run(model)
    path = save(to_peft(pairs), tmp_path / "lora.safetensors")
    file = read_lora(path, weight_shapes(dict(model.state_dict())))
    path.unlink()
    assert torch.equal(run(model), plain), "reading changes nothing"
    lora = file.apply(model, 0.5)
    assert lora.file is file and (lora.matched, lora.report()) == (file.matched, file.report())
    assert_parity(run(model), by_hand(base, pairs, 0.5), 2e-5, "LoRA from a file that is read")
    lora.remove()
    assert torch.equal(run(model), plain)


def test_the_shapes_before_a_model_is_built_are_those_of_its_layers(base: Path) -> None:
    model = load_transformer(base)
    before, after = weight_shapes(dict(model.state_dict())), module_shapes(model)
    assert after and {name: before[name] for name in after} == after


def test_a_scale_that_no_file_declares_can_be_one_over_the_rank(base: Path, tmp_path: Path) -> None:
    model = load_transformer(base, dtype="float32")
    pairs = pairs_of(model)
    load_lora(model, save(to_peft(pairs), tmp_path / "lora.safetensors"), divide_by_rank=True)
    assert_parity(run(model), by_hand(base, pairs, 1 / RANK), 2e-5, "divided by the rank")
    model = load_transformer(base, dtype="float32")
    load_lora(model, with_metadata(pairs, tmp_path / "declared.safetensors"), divide_by_rank=True)
    assert_parity(run(model), by_hand(base, pairs, ALPHA / RANK), 2e-5, "declared all the same")


def test_ranks_and_alphas_may_differ_from_layer_to_layer(base: Path, tmp_path: Path) -> None:
    model = load_transformer(base, dtype="float32")
    pairs = pairs_of(model)
    odd = next(iter(pairs))
    told = {"transformer.r": RANK, "transformer.lora_alpha": ALPHA, "transformer.alpha_pattern": {odd: 8.0}}
    path = save(to_peft(pairs), tmp_path / "a.safetensors", metadata={"lora_adapter_metadata": json.dumps(told)})
    load_lora(model, path)
    scaled = {name: (up * (4 if name == odd else 1), down) for name, (up, down) in pairs.items()}
    assert_parity(run(model), by_hand(base, scaled, ALPHA / RANK), 2e-5, "alpha pattern")


@pytest.mark.parametrize("form", ["fp8_scaled", "int8", "Q8_0 in safetensors", "Q4_0.gguf"])
def test_it_works_over_small_numbers(form: str, base: Path, tmp_path: Path) -> None:
    write, least = QUANTIZED[form]
    exact = load_transformer(base, dtype="float32")
    small = load_transformer(write(exact.state_dict(), tmp_path), dtype="float32")
    path = save(to_peft(pairs_of(exact)), tmp_path / "lora.safetensors")
    plain = run(small)
    for model in (exact, small):
        load_lora(model, path)
    assert snr_db(run(small), run(exact)) > least
    assert relative_difference(run(small), plain) > 0.05


def test_a_convolution_takes_one_too(tmp_path: Path) -> None:
    state = random_transformer(toy_transformer_config("CogVideoX-5B", text_embed_dim=64)).state_dict()
    path = prefixed("")(state, tmp_path)
    up, down = torch.randn(128, RANK, 1, 1), torch.randn(RANK, 16, 2, 2)
    flat = "lora_unet__patch_embed_proj"
    tensors = {f"{flat}.lora_up.weight": up, f"{flat}.lora_down.weight": down}
    model, merged = load_transformer(path, dtype="float32"), load_transformer(path, dtype="float32")
    load_lora(model, save(tensors, tmp_path / "lora.safetensors"))
    product = (up.flatten(1) @ down.flatten(1)).view(128, 16, 2, 2)
    merged.patch_embed.proj.weight = torch.nn.Parameter(merged.patch_embed.proj.weight + product, requires_grad=False)
    assert_parity(run(model), run(merged), 2e-5, "LoRA of a convolution")


# --- What does not fit --------------------------------------------------------------------------------------------


def test_keys_that_fit_nothing_are_told(base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = load_transformer(base, dtype="float32")
    tensors = to_peft(pairs_of(model))
    strange = {
        "transformer.transformer_blocks.7.attn1.to_q.lora_A.weight": torch.zeros(4, 128),
        "transformer.transformer_blocks.7.attn1.to_q.lora_B.weight": torch.zeros(128, 4),
        "transformer.something.else": torch.zeros(4),
    }
    lonely = "transformer.transformer_blocks.1.attn1.to_v.lora_A.weight"
    misshapen = "transformer.transformer_blocks.0.attn1.to_k.lora_B.weight"
    del tensors[lonely]
    tensors[misshapen] = torch.zeros(64, 4)
    text = {"text_encoder.encoder.block.0.lora_A.weight": torch.zeros(2, 2)}
    with caplog.at_level("INFO", "cogvideox"):
        lora = load_lora(model, save(tensors | strange | text, tmp_path / "lora.safetensors"))
    assert set(lora.unmatched) == {*strange, lonely.replace("_A", "_B"), misshapen, misshapen.replace("_B", "_A")}
    assert lora.ignored == list(text) and len(lora.matched) == 12 and len(lora.file.deltas) == 6
    assert "12 keys matched, for 6 layers; 6 unmatched (" in caplog.text and "; 1 ignored (text_encoder" in caplog.text
    assert "LoRA at scale 1 (not known: rank 4, no alpha in the file, no adapter_config.json beside it)" in caplog.text


def test_the_bias_of_a_product_is_scaled_with_it(base: Path, tmp_path: Path) -> None:
    model, merged = load_transformer(base, dtype="float32"), load_transformer(base, dtype="float32")
    pairs = pairs_of(model)
    biases = {f"transformer.{name}.lora_B.bias": 0.3 * torch.randn(len(up)) for name, (up, _) in pairs.items()}
    alphas = {f"transformer.{name}.alpha": torch.tensor(ALPHA) for name in pairs}
    path = save(to_peft(pairs) | biases | alphas, tmp_path / "lora.safetensors")
    load_lora(merged, save(to_peft(pairs), tmp_path / "plain.safetensors"), STRENGTH * ALPHA / RANK)
    for key, bias in biases.items():
        layer = merged.get_submodule(key.removeprefix("transformer.").removesuffix(".lora_B.bias"))
        layer.bias.data += STRENGTH * ALPHA / RANK * bias  # type: ignore[operator]
    lora = load_lora(model, path, STRENGTH)
    assert_parity(run(model), run(merged), 2e-5, "LoRA with a bias")
    assert len(lora.matched) == 4 * len(pairs) and not lora.ignored


def test_a_lora_of_another_model_changes_nothing(base: Path, tmp_path: Path) -> None:
    model = load_transformer(base, dtype="float32")
    plain = run(model)
    wide = {
        "transformer.transformer_blocks.0.attn1.to_q.lora_A.weight": torch.zeros(4, 3072),
        "transformer.transformer_blocks.0.attn1.to_q.lora_B.weight": torch.zeros(3072, 4),
    }
    with pytest.raises(CheckpointError, match="holds a LoRA of which nothing fits this transformer .*attn1.to_q"):
        load_lora(model, save(wide, tmp_path / "wide.safetensors"))
    with pytest.raises(CheckpointError, match="holds no LoRA: its keys begin with norm_final.bias"):
        load_lora(model, base)
    assert torch.equal(run(model), plain)


@pytest.mark.parametrize("value", [[1, 2], {"to_q": "8"}, {"to_q": 0}])
def test_a_pattern_that_gives_no_numbers_is_told(value: Any, base: Path, tmp_path: Path) -> None:
    model = load_transformer(base, dtype="float32")
    told = {"transformer.r": RANK, "transformer.lora_alpha": ALPHA, "transformer.alpha_pattern": value}
    header = {"lora_adapter_metadata": json.dumps(told)}
    path = save(to_peft(pairs_of(model)), tmp_path / "a.safetensors", metadata=header)
    with pytest.raises(CheckpointError, match="has no number for each name in its alpha_pattern"):
        load_lora(model, path)


@pytest.mark.parametrize("alpha", [torch.tensor(float("nan")), torch.zeros(0), torch.ones(2)])
def test_an_alpha_that_is_no_number_is_told(alpha: Tensor, base: Path, tmp_path: Path) -> None:
    model = load_transformer(base, dtype="float32")
    path = kohya("lora_unet_")(pairs_of(model), tmp_path / "a.safetensors")
    tensors = load_file(path)
    key = next(key for key in tensors if key.endswith(".alpha"))
    with pytest.raises(CheckpointError, match="has no single finite number under lora_unet_.*alpha"):
        load_lora(model, save(tensors | {key: alpha}, path))
