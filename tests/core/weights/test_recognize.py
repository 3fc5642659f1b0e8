"""What weights are by their keys, and what is said of those that belong elsewhere."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cogvideox_core.models.config import TransformerConfig
from cogvideox_core.models.transformer.model import CogVideoXTransformer3D
from cogvideox_core.weights.detect import transformer_config, vae_config
from cogvideox_core.weights.errors import CheckpointError
from cogvideox_core.weights.recognize import COMPONENTS, Component, component_of, expect_kind, recognize

Shapes = dict[str, tuple[int, ...]]


TOY = TransformerConfig(
    num_attention_heads=2, num_layers=3, attention_head_dim=16, time_embed_dim=24, text_embed_dim=40
)


def shapes_of(model: torch.nn.Module) -> Shapes:
    return {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}


def toy(**changes: object) -> TransformerConfig:
    return replace(TOY, **changes)


def toy_shapes(**changes: object) -> Shapes:
    return shapes_of(CogVideoXTransformer3D(toy(**changes), device="meta"))


FOREIGN = {
    "a CogVideoX VAE": ["encoder.conv_in.conv.weight", "decoder.conv_in.conv.bias"],
    "a T5 text encoder": ["encoder.block.0.layer.0.SelfAttention.q.weight", "shared.weight"],
    "a ControlNet": ["controlnet_encode_first.0.weight", "patch_embed.proj.weight", "time_embedding.linear_1.bias"],
    "a LoRA": ["transformer.transformer_blocks.0.attn1.to_q.lora_A.weight"],
    "a LoRA,": ["lora_unet__transformer_blocks_0_attn1_to_q.lora_down.weight", "x.alpha"],
    "a LoRA, ": ["model.diffusion_model.transformer.layers.0.attention.dense.matrix_A.0"],
    "is a LoRA": ["lycoris_transformer_blocks_0_attn1_to_q.lokr_w1", "lycoris_transformer_blocks_0_attn1_to_q.alpha"],
    "is a LoRA,": ["base_model.model.transformer_blocks.0.attn1.to_q.hada_w1_a"],
    "is a LoRA, ": ["base_model.model.transformer_blocks.0.attn1.to_q.oft_R.weight"],
    "is a LoRA, not": ["transformer.transformer_blocks.0.attn1.to_q.boft_R"],
    "quantized by bitsandbytes": ["patch_embed.proj.weight", "transformer_blocks.0.ff.net.2.weight.absmax"],
    "a Tora": ["patch_embed.proj.weight", "fuser_list.0.flow_gamma_spatial.weight"],
    "a ConsisID": ["patch_embed.proj.weight", "perceiver_cross_attention.0.to_q.weight"],
    "a VAE of another layout": ["first_stage_model.encoder.down.0.block.0.conv1.weight"],
    "a CLIP text encoder": ["text_model.embeddings.token_embedding.weight"],
    "a VAE of another": ["encoder.conv_in.conv.weight", "encoder.mid_block.attentions.0.to_q.weight"],
    "a VAE of another ": ["encoder.downsamples.0.residual.0.gamma", "decoder.middle.0.residual.0.gamma"],
    "Wan's UMT5": ["encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight", "shared.weight"],
    "a Wan model": ["model.diffusion_model.blocks.0.cross_attn.q.weight", "patch_embedding.weight"],
    "an LTX-Video model": ["transformer_blocks.0.attn1.norm_q.weight", "transformer_blocks.0.attn2.to_q.weight"],
    "a HunyuanVideo or FLUX model": ["double_blocks.0.img_attn.qkv.weight"],
    "a HunyuanVideo or FLUX model ": ["transformer_blocks.0.attn.to_q.weight", "single_transformer_blocks.0.x.weight"],
    "a Stable Diffusion model": ["model.diffusion_model.input_blocks.0.0.weight"],
    "begin with fc.weight": ["fc.weight"],
    "no tensors at all": [],
}  # fmt: skip


@pytest.mark.parametrize("told", FOREIGN)
def test_other_weights_given_as_a_transformer_are_named(told: str) -> None:
    with pytest.raises(CheckpointError, match="not a CogVideoX transformer") as caught:
        transformer_config({key: (4, 4) for key in FOREIGN[told]}, source="some.safetensors")
    assert told.strip() in str(caught.value) and str(caught.value).startswith("some.safetensors")


def test_a_transformer_given_as_something_else_is_named() -> None:
    with pytest.raises(CheckpointError, match=r"is a CogVideoX transformer, not a CogVideoX VAE;.*load_transformer"):
        vae_config(toy_shapes())
    with pytest.raises(CheckpointError, match="is a CogVideoX transformer, not a T5 text encoder"):
        expect_kind(toy_shapes(), "text_encoder", "x")


@pytest.mark.parametrize(
    ("component", "keys"),
    [
        ("transformer", ["patch_embed.proj.weight"]),
        ("transformer", ["model.diffusion_model.blocks.0.attn_out.weight"]),
        ("transformer", ["transformer.layers.0.attention.query_key_value.weight"]),
        ("vae", ["decoder.conv_in.conv.weight"]),
        ("vae", ["first_stage_model.encoder.conv_in.conv.weight"]),
        ("text_encoder", ["encoder.block.0.layer.0.SelfAttention.q.weight"]),
        ("text_encoder", ["enc.blk.0.attn_rel_b.weight"]),
    ],
)
def test_a_component_is_known_by_any_program_s_names(component: Component, keys: list[str]) -> None:
    kind = recognize(keys)
    assert kind is COMPONENTS[component] and component_of(kind) == component
    expect_kind(keys, component, "x")


def test_what_is_none_of_them_is_no_component() -> None:
    assert recognize(["fc.weight"]) is None and component_of(None) is None
    assert component_of(recognize(["text_model.embeddings.token_embedding.weight"])) is None
    with pytest.raises(CheckpointError, match="^x is not a CogVideoX VAE: its 1 tensors begin with fc.weight"):
        expect_kind(["fc.weight"], "vae", "x")
