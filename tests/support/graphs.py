"""API prompts for the tests, from a few lines: nodes by readable names, linked by [name, output]."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tests.support.host import History, Host

Graph = dict[str, dict[str, Any]]

WIDTH, HEIGHT, LENGTH = 96, 64, 17
SIZE = {"width": WIDTH, "height": HEIGHT, "length": LENGTH}
SEED = 7
PROMPT, NEGATIVE = "a red circle moves to the right on a blue background", "blurry"


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def loaders(kind: str) -> Graph:
    """Model, VAE, text encoder and both prompts of a toy in models/diffusers."""
    return {
        "model": node("CogVideoXLoadModel", model_name=kind),
        "vae": node("CogVideoXLoadVAE", vae_name=kind),
        "t5": node("CogVideoXLoadT5", text_encoder_name=kind),
        "positive": node("CogVideoXT5Encode", clip=["t5", 0], text=PROMPT),
        "negative": node("CogVideoXT5Encode", clip=["t5", 0], text=NEGATIVE),
    }


def sampler(**changes: Any) -> dict[str, Any]:
    """CogVideoX Sampler on the nodes of `text_to_video` and `image_to_video`."""
    inputs = {
        "model": ["model", 0],
        "positive": ["positive", 0],
        "negative": ["negative", 0],
        "latent_image": ["latent", 0],
        "seed": SEED,
        "steps": 4,
        "cfg": 6.0,
        "sampler": "ddim",
        "dynamic_cfg": "off",
        "denoise": 1.0,
    }
    return node("CogVideoXSampler", **{**inputs, **changes})


def text_to_video(kind: str, **sampling: Any) -> Graph:
    """Prompt to a saved latent ("save")."""
    return {
        **loaders(kind),
        "latent": node("CogVideoXEmptyLatent", model=["model", 0], **SIZE),
        "sampler": sampler(**sampling),
        "save": save_latent(),
    }


def image_to_video(kind: str, image: str, last: str | None = None, **sampling: Any) -> Graph:
    """Image and prompt to a saved latent ("save"); image names are files in the host's input folder."""
    graph = {
        **loaders(kind),
        "image": node("LoadImage", image=image),
        "latent": node(
            "CogVideoXImageToVideo",
            positive=["positive", 0],
            negative=["negative", 0],
            vae=["vae", 0],
            start_image=["image", 0],
            **SIZE,
        ),
        "sampler": sampler(positive=["latent", 0], negative=["latent", 1], latent_image=["latent", 2], **sampling),
        "save": save_latent(),
    }
    if last is not None:
        graph["last"] = node("LoadImage", image=last)
        graph["latent"]["inputs"]["end_image"] = ["last", 0]
    return graph


def custom_sampling(kind: str, *, rule: str = "ddim", steps: int = 10) -> Graph:
    """SamplerCustomAdvanced with our sigmas and sampler."""
    graph = text_to_video(kind)
    return graph | {
        "noise": node("RandomNoise", noise_seed=SEED),
        "guider": node("CFGGuider", model=["model", 0], positive=["positive", 0], negative=["negative", 0], cfg=6.0),
        "rule": node("CogVideoXSamplerSelect", sampler=rule, dynamic_cfg="off"),
        "sigmas": node("CogVideoXScheduler", model=["model", 0], steps=steps, denoise=1.0),
        "sampler": custom_sampler("noise", ["sigmas", 0], ["latent", 0]),
    }


def custom_sampler(noise: str, sigmas: list, latent: list) -> dict:
    return node(
        "SamplerCustomAdvanced",
        noise=[noise, 0],
        guider=["guider", 0],
        sampler=["rule", 0],
        sigmas=sigmas,
        latent_image=latent,
    )


def two_stages(at: int) -> Graph:
    """What makes two of the run of `custom_sampling`, the second without noise of its own."""
    return {
        "split": node("SplitSigmas", sigmas=["sigmas", 0], step=at),
        "first": custom_sampler("noise", ["split", 0], ["latent", 0]),
        "silence": node("DisableNoise"),
        "sampler": custom_sampler("silence", ["split", 1], ["first", 0]),
    }


def ksampler() -> dict:
    inputs = sampler()["inputs"]
    kept = {name: inputs[name] for name in ("model", "positive", "negative", "latent_image", "seed", "cfg", "denoise")}
    return node("KSampler", **kept, steps=10, sampler_name="euler", scheduler="simple")


def save_latent(source: str = "sampler") -> dict[str, Any]:
    return node("SaveLatent", samples=[source, 0], filename_prefix="latents/test")


def saved_latent(host: Host, history: History, name: str = "save") -> torch.Tensor:
    """z [B, 16, T, h, w] that a SaveLatent node wrote."""
    item = history.outputs[name]["latents"][0]
    return load_file(host.saved_path(item))["latent_tensor"]


def saved_tensor(history: History, name: str) -> torch.Tensor:
    """What a ProbeSaveImages ([F, H, W, 3]) or ProbeSaveConditioning ([B, L, D]) node wrote."""
    (path,) = history.files(name)
    return load_file(Path(path))["tensor"]
