"""What performance.py measures: who takes part in a scene, and what our code must reach compared with each peer."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from benchmarks.products import products_of
from benchmarks.runs import (
    Maker,
    Run,
    Step,
    Video,
    Whole,
    diffusers_run,
    diffusers_text,
    our_run,
    our_text,
    written,
)
from cogvideox_core import load_transformer

OURS = "ours"
MATRICES_ALONE, CONVOLUTIONS_ALONE = "its matrices and attention alone", "its convolutions alone"
PRODUCTS_ALONE = "its matrices, attention and convolutions alone"
FLOORS = MATRICES_ALONE, CONVOLUTIONS_ALONE, PRODUCTS_ALONE
"""Parts of ours that nothing arranged around them can go below; they are no peers, and hold next to no memory."""


@dataclass(frozen=True)
class Scene:
    """What is computed, by whom, and what is asked.

    Attributes:
        makers: who takes part; each makes its model and gives back what runs it once. The first is ours.
        time, memory: largest ratio to each peer that is asked.
        apart: largest relative difference from the first peer's numbers that is asked; None where they are rounded to
            16 bits or less, and decibels are reported.
        db: smallest PSNR to the first peer that is asked, of videos with values from 0 to 1.
        with_weights: whether weights count as memory.
        gib: most memory of ours that is asked, in GiB.
        reference: the first peer in float32 with the same weights, where everyone computes in less: what each is told
            to be apart from.
    """

    what: str
    makers: dict[str, Maker]
    time: dict[str, float] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)
    apart: float | None = None
    db: float | None = None
    with_weights: bool = False
    gib: float | None = None
    reference: Maker | None = None


# --- Kinds of scene --------------------------------------------------------------------------------------------------


def _step(what: str, step: Step, *, compiled: bool = False, comfyui: bool = False) -> Scene:
    makers: dict[str, Maker] = {OURS: step.ours, "diffusers": step.diffusers}
    time = {"diffusers": 0.80}
    if compiled:
        makers["diffusers, compiled"] = partial(step.diffusers, compiled=True)
        time["diffusers, compiled"] = 0.95
    if comfyui:
        makers["ComfyUI's own"] = step.comfyui
        time["ComfyUI's own"] = 0.60
    makers[MATRICES_ALONE] = step.floor
    if step.dtype == torch.float32:
        return Scene(what, makers, time=time, apart=1e-5)
    return Scene(what, makers, time=time, reference=step.reference)


def _attention(what: str, step: Step) -> Scene:
    makers: dict[str, Maker] = {OURS: step.attention, "PyTorch's own": partial(step.attention, name="sdpa")}
    time = {"PyTorch's own": 1.0}
    if step.dtype == torch.float32:
        return Scene(what, makers, time, apart=1e-5)
    in_float32 = replace(step, dtype=torch.float32, stored=step.dtype)
    return Scene(what, makers, time, reference=partial(in_float32.attention, name="sdpa"))


def _int8_step(what: str, step: Step) -> Scene:
    makers: dict[str, Maker] = {
        OURS: partial(step.ours, quantize="int8"),
        "diffusers with bitsandbytes INT8": partial(step.diffusers, quantize="llm.int8"),
        "diffusers": step.diffusers,
    }
    memory = {"diffusers": 0.55} if step.dtype == torch.bfloat16 else {}
    time = {"diffusers with bitsandbytes INT8": 0.80}
    return Scene(what, makers, time, memory, with_weights=True, reference=step.reference)


def _decode(
    what: str, video: Video, time: dict[str, float], memory: dict[str, float], gib: float | None = None
) -> Scene:
    makers: dict[str, Maker] = {OURS: video.our_decode, "diffusers": video.diffusers_decode}
    if "diffusers, tiled" in time:
        makers["diffusers, tiled"] = partial(video.diffusers_decode, tiling=True)
    makers[CONVOLUTIONS_ALONE] = partial(products_of, video.our_decode)
    if video.dtype == torch.float32:
        return Scene(what, makers, time, memory, apart=1e-5, gib=gib)
    return Scene(what, makers, time, memory, gib=gib, reference=video.in_float32().diffusers_decode)


def _encode(what: str, video: Video, memory: dict[str, float]) -> Scene:
    makers: dict[str, Maker] = {
        OURS: video.our_encode,
        "diffusers": video.diffusers_encode,
        CONVOLUTIONS_ALONE: partial(products_of, video.our_encode),
    }
    if video.dtype == torch.float32:
        return Scene(what, makers, {"diffusers": 0.60}, memory, apart=1e-5)
    return Scene(what, makers, {"diffusers": 0.60}, memory, reference=video.in_float32().diffusers_encode)


def _load(what: str, step: Step, time: float) -> Scene:
    """From a file to the device; what is compared is a weight."""

    def ours(device: torch.device) -> Run:
        folder = written(step, device)
        return Run(lambda: load_transformer(folder, device=device).proj_out.weight)

    def diffusers(device: torch.device) -> Run:
        from diffusers import CogVideoXTransformer3DModel

        folder = written(step, device)
        load: Any = partial(CogVideoXTransformer3DModel.from_pretrained, folder, torch_dtype=step.dtype)
        return Run(lambda: load().to(device).proj_out.weight)

    on_gpu = time < 0.5
    memory = {} if on_gpu else {"diffusers": 0.10}
    return Scene(what, {OURS: ours, "diffusers": diffusers}, {"diffusers": time}, memory, apart=0.0)


# --- The scenes of a device ------------------------------------------------------------------------------------------


# On a CPU a model wide enough that its matrices and not Python take the time, at 2,018 tokens.
_MIDDLE = dict(num_attention_heads=12, num_layers=4, time_embed_dim=256, text_embed_dim=512)
_SMALL = (7, 32, 32)  # latent frames, rows, columns: 1,792 video tokens and 226 of text
_SMALL_15 = (14, 32, 32)  # the same number of tokens in patches of two frames
_FULL = (13, 60, 90)  # 49 frames of 480 x 720
_FULL_15 = (22, 96, 170)  # 81 frames of 768 x 1360, and the leading frame


def on_cpu() -> dict[str, Scene]:
    """Two cores: a middle-sized transformer, the VAE at full width on small pictures, the demo model."""
    step = Step("CogVideoX-5B", _SMALL, torch.float32, _MIDDLE)
    half = Step("CogVideoX-5B", _SMALL, torch.bfloat16, _MIDDLE)
    newer = Step("CogVideoX1.5-5B", _SMALL_15, torch.float32, _MIDDLE)
    clip = Video((9, 128, 192), torch.float32)
    peer = "diffusers"
    return {
        "step": _step("a guided transformer step, 2,018 tokens, float32", step),
        "step-bf16": _step("the same in bfloat16", half),
        "step-1.5": _step("a guided step of the 1.5 kind, float32", newer, comfyui=True),
        "attention": _attention("attention of one of its blocks, float32", step),
        "attention-bf16": _attention("the same in bfloat16", half),
        "step-int8": _int8_step("the step in INT8, the rest in float32", step),
        "step-int8-bf16": _int8_step("the same in bfloat16; memory with weights", half),
        "decode": _decode("full-width VAE decode, 9 x 128 x 192, float32", clip, {peer: 0.60}, {peer: 0.50}),
        "encode": _encode("full-width VAE encode, 9 x 128 x 192, float32", clip, {peer: 0.50}),
        "text": Scene(
            "four prompts of the demo model", {OURS: our_text, peer: diffusers_text}, {peer: 1.0}, apart=1e-5
        ),
        "load": _load("opening a transformer of 116 MB", step, 0.50),
        "run": Scene(
            "the demo model from prompt to frames, 25 steps, float32",
            {OURS: our_run, peer: diffusers_run, PRODUCTS_ALONE: partial(products_of, our_run)},
            {peer: 0.75},
            apart=1e-4,
        ),
        "run-cached": Scene(
            "the same with 50 steps, ours with a cache budget of 0.03",
            {OURS: partial(our_run, num_steps=50, cache_budget=0.03), peer: partial(diffusers_run, num_steps=50)},
            {peer: 0.45},
            db=35,
        ),
        "run-cached-more": Scene(
            "the same with a cache budget of 0.1",
            {OURS: partial(our_run, num_steps=50, cache_budget=0.1), peer: partial(diffusers_run, num_steps=50)},
            {peer: 0.45},
            db=35,
        ),
    }


def on_gpu() -> dict[str, Scene]:
    """One large GPU: the models' own sizes, with random weights."""
    step = Step("CogVideoX-5B", _FULL, torch.bfloat16)
    newer = Step("CogVideoX1.5-5B", _FULL_15, torch.bfloat16, {"num_layers": 4})
    third = Step("CogVideoX-5B", _FULL, torch.bfloat16, {"num_layers": 14})
    clip, large = Video((49, 480, 720), torch.bfloat16), Video((17, 768, 1360), torch.bfloat16)
    short = Video((17, 480, 720), torch.bfloat16)
    times = {"diffusers": 0.50, "diffusers, tiled": 0.35}
    carried, carried_large = (
        {OURS: partial(video.our_decode, carry="cpu"), "diffusers": video.diffusers_decode} for video in (clip, large)
    )
    part, whole = (Whole(of, clip, 4) for of in (third, step))
    int8, streamed = (partial(whole.ours, quantize="int8", low_memory=low) for low in (False, True))
    return {
        "step": _step("a guided step of 14 of 42 blocks of 5B, 49 x 480 x 720, bfloat16", third, compiled=True),
        "decode": _decode("VAE decode, 49 x 480 x 720, bfloat16", clip, times, {}),
        "decode-carry": Scene("the same, what is carried in main memory", carried, {"diffusers": 0.50}, gib=2.5),
        "step-int8": Scene(
            "the step in INT8, memory with weights",
            {OURS: partial(third.ours, quantize="int8"), "diffusers": third.diffusers},
            {"diffusers": 0.60},
            with_weights=True,
            reference=third.reference,
        ),
        "run": Scene(
            "14 of 42 blocks of 5B from embeddings to frames, 4 steps, memory with weights",
            {OURS: part.ours, "diffusers": part.diffusers},
            {"diffusers": 0.80},
            with_weights=True,
        ),
        "step-1.5": _step("4 of 42 blocks of 1.5-5B, 81 x 768 x 1360, bfloat16", newer, comfyui=True),
        "decode-large": Scene(
            "VAE decode, 17 x 768 x 1360, carried in main memory", carried_large, {"diffusers": 0.50}, gib=7.0
        ),
        "encode": _encode("VAE encode, 17 x 480 x 720, bfloat16", short, {}),
        "load": _load("14 of 42 blocks of 5B from file to GPU", third, 0.25),
        "run-streamed": Scene(
            "the whole 5B in INT8 from embeddings to frames, streamed, 4 steps, memory with weights",
            {OURS: streamed, "diffusers": whole.diffusers, "ours, on the device": int8},
            {"diffusers": 0.80, "ours, on the device": 1.05},
            with_weights=True,
            gib=2.5,
        ),
    }
