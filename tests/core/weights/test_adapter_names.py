"""Names of modules and parts: what each program calls them."""

from __future__ import annotations

import pytest

from cogvideox_core.weights.adapter_names import Names, is_adapter, names_elsewhere, parts_of_layers
from tests.support.adapter_forms import base

TO_Q, TO_OUT = "transformer_blocks.1.attn1.to_q", "transformer_blocks.1.attn1.to_out.0"
NAMES = Names([TO_Q, TO_OUT, "transformer_blocks.1.ff.net.0.proj", "patch_embed.proj", "norm_out.norm"])

PARSED = {
    f"transformer.{TO_Q}.lora_A.weight": (TO_Q, "down"),
    f"base_model.model.{TO_Q}.lora_B.default.weight": (TO_Q, "up"),
    f"{TO_Q}.lora_B.default.bias": (TO_Q, "up_bias"),
    f"{TO_Q}.lora_A": (TO_Q, "down"),
    "lora_unet__transformer_blocks_1_attn1_to_out_0.lora_up.weight": (TO_OUT, "up"),
    "lycoris_transformer_blocks_1_attn1_to_q.lokr_w2_a": (TO_Q, "lokr_w2_a"),
    "lycoris_transformer_blocks_1_attn1_to_q.alpha": (TO_Q, "alpha"),
    "lycoris_patch_embed_proj.hada_t1": ("patch_embed.proj", "hada_t1"),
    "lycoris_norm_out_norm.w_norm": ("norm_out.norm", "w_norm"),
    f"base_model.model.{TO_Q}.lokr_w1.default": (TO_Q, "lokr_w1"),
    f"base_model.model.{TO_Q}.oft_R.weight": (TO_Q, "oft_R"),
    f"base_model.model.{TO_Q}.oft_R.default.weight": (TO_Q, "oft_R"),
    f"base_model.model.{TO_Q}.lora_magnitude_vector": (TO_Q, "lora_magnitude_vector"),
    f"base_model.model.{TO_Q}.lora_magnitude_vector.default.weight": (TO_Q, "lora_magnitude_vector"),
    f"base_model.model.{TO_Q}.base_layer.bias": (TO_Q, "bias"),
    f"base_model.model.{TO_Q}.base_layer.weight": None,
    "base_model.model.norm_out.norm.weight": ("norm_out.norm", "weight"),
    "blocks.1.attn1.to_q.lora_A.default.weight": (TO_Q, "down"),
    "pipe.dit.blocks.1.attn1.to_out.lora_B.default.weight": (TO_OUT, "up"),
    "blocks.1.ff.0.lora_A.weight": ("transformer_blocks.1.ff.net.0.proj", "down"),
    "patchify.proj.lora_A.weight": ("patch_embed.proj", "down"),
    "diffusion_model.blocks.1.attn_out.lora_down.weight": (TO_OUT, "down"),
    "lora_unet_blocks_1_q.lora_up.weight": (TO_Q, "up"),
    "transformer.transformer_blocks.1.attn1.processor.to_out_lora.up.weight": (TO_OUT, "up"),
    "model.diffusion_model.transformer.layers.1.attention.query_key_value.matrix_A.0": (TO_Q, "down"),
    "model.diffusion_model.transformer.layers.1.attention.dense.original.weight": None,
    "lora_te1_text_model_encoder.lora_up.weight": None,
    "text_encoder.encoder.block.0.lora_A.weight": None,
    f"transformer.{TO_Q}.lora_E": (TO_Q, "lora_E"),
    "transformer.something.else": ("transformer.something.else", ""),
    "norm_final.weight": ("norm_final.weight", ""),
}


@pytest.mark.parametrize("key", PARSED)
def test_a_key_is_a_module_and_a_part(key: str) -> None:
    assert NAMES.parse(key) == PARSED[key]


def test_every_module_is_found_under_all_its_names() -> None:
    """No two modules of a transformer have a name in common."""
    modules = [name for name, module in base().named_modules() if getattr(module, "weight", None) is not None]
    names = Names(modules)
    for name in modules:
        every = [name, *names_elsewhere(name)]
        flat = [prefix + other.replace(".", "_") for other in every for prefix in ("lycoris_", "lora_unet_")]
        assert {names.resolve(other) for other in every + flat} == {name}
    assert {"blocks.0.attn1.to_v", "blocks.0.v"} == set(names_elsewhere("transformer_blocks.0.attn1.to_v"))


def test_what_holds_no_adapter_is_none() -> None:
    assert not is_adapter(["transformer_blocks.0.attn1.to_q.weight", "norm_final.bias", "encoder.b1.weight"])
    sat = "transformer.layers.0.attention.dense.matrix_A.0"
    for key in (f"{TO_Q}.lokr_w1", f"{TO_Q}.oft_R.weight", "lycoris_x.a1.weight", sat):
        assert is_adapter(["norm_final.bias", key]), key


def test_layers_are_told_without_a_transformer() -> None:
    keys = ["lycoris_x.lokr_w1", "lycoris_x.alpha", f"base_model.model.{TO_Q}.oft_R.weight", "norm_final.weight"]
    assert parts_of_layers(keys) == {
        "lycoris_x": {"lokr_w1": keys[0], "alpha": keys[1]},
        TO_Q: {"oft_R": keys[2]},
    }
