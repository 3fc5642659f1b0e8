"""Guidance by weaker predictions, and moved rotary axes, in the real host: against diffusers and the core."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import CogVideoXDDIMScheduler, CogVideoXPipeline
from torch import Tensor

from cogvideox_core import load_text_encoder
from cogvideox_core.models.transformer.positions import Axis, Positions
from tests.support.core_runs import STEPS, run_core
from tests.support.graphs import (
    HEIGHT,
    LENGTH,
    NEGATIVE,
    PROMPT,
    SEED,
    WIDTH,
    Graph,
    node,
    saved_latent,
    text_to_video,
)
from tests.support.host import Host
from tests.support.parity import assert_parity, relative_difference

CFG, SCALE, BLOCK = 6.0, 1.5, 1
KINDS = ["CogVideoX-2B", "CogVideoX-5B", "CogVideoX1.5-5B"]
AXES = {"scale_x": 1.5, "shift_x": 3.0, "scale_y": 2.0, "shift_y": -4.0, "scale_t": 0.5, "shift_t": 1.0}
CORE_AXES = (Axis(0.5, 1.0), Axis(2.0, -4.0), Axis(1.5, 3.0))

Weaken = Callable[[Any], Any]


class ValuesOnly:
    """diffusers' attention with each token looking at itself alone."""

    def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, **options: Any) -> tuple:
        out = attn.to_out[0](attn.to_v(torch.cat([encoder_hidden_states, hidden_states], dim=1)))
        text = encoder_hidden_states.shape[1]
        return out[:, text:], out[:, :text]


@contextmanager
def weak_attention(transformer: Any) -> Iterator[None]:
    """STG's attention skip in one block."""
    attention = transformer.transformer_blocks[BLOCK].attn1
    whole = attention.processor
    attention.set_processor(ValuesOnly())
    yield
    attention.set_processor(whole)


@contextmanager
def without_block(transformer: Any) -> Iterator[None]:
    """STG's residual skip, which diffusers' community pipeline for CogVideoX does: a block gives what it gets."""
    block = transformer.transformer_blocks[BLOCK]
    whole = block.forward
    block.forward = lambda hidden_states, encoder_hidden_states, **options: (hidden_states, encoder_hidden_states)
    yield
    block.forward = whole


@torch.no_grad()
def reference(folder: Path, weaken: Weaken) -> Tensor:
    """z [1, 16, T, h, w] of diffusers' run with v = u + g (c - u) + s (c - p); the weakened transformer predicts p."""
    pipeline: Any = CogVideoXPipeline.from_pretrained(folder)
    pipeline.scheduler = CogVideoXDDIMScheduler.from_config(pipeline.scheduler.config, timestep_spacing="trailing")
    whole = pipeline.transformer.forward

    def forward(hidden_states: Tensor, encoder_hidden_states: Tensor, timestep: Tensor, **options: Any) -> tuple:
        (without, with_prompt) = whole(hidden_states, encoder_hidden_states, timestep, **options)[0].chunk(2)
        with weaken(pipeline.transformer):
            halves = (part.chunk(2)[1] for part in (hidden_states, encoder_hidden_states, timestep))
            weaker = whole(*halves, **options)[0]
        # The pipeline adds g times this, less g times the other.
        return (torch.cat([without, with_prompt + SCALE / CFG * (with_prompt - weaker)]),)

    pipeline.transformer.forward = forward
    encode = load_text_encoder(folder)
    latents = pipeline(
        prompt_embeds=encode([PROMPT]),
        negative_prompt_embeds=encode([NEGATIVE]),
        height=HEIGHT,
        width=WIDTH,
        num_frames=LENGTH,
        num_inference_steps=STEPS,
        guidance_scale=CFG,
        generator=torch.Generator().manual_seed(SEED),
        output_type="latent",
    ).frames
    clip = latents.transpose(1, 2)[:, :, -((LENGTH - 1) // 4 + 1) :]  # without the leading frames of 1.5
    return clip / pipeline.vae.config.scaling_factor


def guided(kind: str, other: dict[str, Any], **sampling: Any) -> Graph:
    """A run of CogVideoX Sampler behind another node."""
    graph = text_to_video(kind, model=["other", 0], cfg=CFG, **sampling)
    return graph | {"other": node(other["class_type"], **{**other["inputs"], "model": ["model", 0]})}


@pytest.mark.parametrize("kind", KINDS)
def test_spatio_temporal_guidance_is_diffusers_with_values_in_place_of_attention(
    host: Host, toys: dict, kind: str
) -> None:
    options = json.dumps({"stg_self_attn_blocks": [BLOCK]})
    nodes = [node("ProbeGuidance", options=options, scale=SCALE)]
    if "LTXVSpatioTemporalGuidance" in host.object_info():  # ComfyUI 0.32 and newer
        inputs = dict(scale=SCALE, blocks=str(BLOCK), start_percent=0.0, end_percent=1.0)
        nodes.append(node("LTXVSpatioTemporalGuidance", **inputs))
    expected = reference(toys[kind], weak_attention)
    for other in nodes:
        latent = saved_latent(host, host.run(guided(kind, other)))
        assert_parity(latent, expected, 1e-4, f"{kind} with {other['class_type']}")
    assert relative_difference(expected, reference(toys[kind], without_block)) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_skip_layer_guidance_is_diffusers_spatio_temporal_guidance(host: Host, toys: dict, kind: str) -> None:
    inputs = dict(scale=SCALE, double_layers=str(BLOCK), single_layers="", start_percent=0.0, end_percent=1.0)
    skip = node("SkipLayerGuidanceDiT", **inputs, rescaling_scale=0.0)
    latent = saved_latent(host, host.run(guided(kind, skip)))
    assert_parity(latent, reference(toys[kind], without_block), 1e-4, f"{kind} with SkipLayerGuidanceDiT")


@pytest.mark.parametrize("kind", ["CogVideoX-5B", "CogVideoX1.5-5B"])
def test_scale_rope_moves_the_rotary_positions(host: Host, core: Callable, kind: str) -> None:
    latent = saved_latent(host, host.run(guided(kind, node("ScaleROPE", **AXES))))
    pipeline = core(kind)
    plain = run_core(pipeline)
    whole = pipeline.transformer.forward
    pipeline.transformer.forward = lambda *given, **more: whole(*given, **{**more, "positions": Positions(CORE_AXES)})
    try:
        expected = run_core(pipeline)
    finally:
        pipeline.transformer.forward = whole
    assert_parity(latent, expected, 1e-5, f"{kind} with ScaleROPE")
    assert relative_difference(plain, expected) > 1e-3


def test_scale_rope_as_it_is_set_at_first_changes_nothing(host: Host, core: Callable) -> None:
    unset = {name: float(name.startswith("scale")) for name in AXES}
    latent = saved_latent(host, host.run(guided("CogVideoX-5B", node("ScaleROPE", **unset))))
    assert torch.equal(latent, saved_latent(host, host.run(text_to_video("CogVideoX-5B", cfg=CFG))))


def test_scale_rope_says_that_a_model_without_rotary_positions_ignores_it(host: Host, toys: dict) -> None:
    plain = saved_latent(host, host.run(text_to_video("CogVideoX-2B", cfg=CFG)))
    before = len(host.log_text())
    latent = saved_latent(host, host.run(guided("CogVideoX-2B", node("ScaleROPE", **AXES))))
    assert torch.equal(latent, plain)
    told = "ScaleROPE does nothing on CogVideoX-2B, which has no rotary positions; take it out"
    assert host.log_text()[before:].count(told) == 1


def test_guidance_on_blocks_that_are_not_there_says_so_once_a_run(host: Host, toys: dict) -> None:
    before = len(host.log_text())
    options = json.dumps({"stg_self_attn_blocks": [BLOCK, 29]})
    for seed in (1, 2):
        host.run(guided("CogVideoX-5B", node("ProbeGuidance", options=options, scale=SCALE), seed=seed))
    told = "Spatio-temporal guidance changes double_block 29, which CogVideoX-5B does not have"
    assert host.log_text()[before:].count(told) == 2
