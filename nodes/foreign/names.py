"""The wrapper's names of models, precisions and schedulers beside ours."""

from __future__ import annotations

from typing import NamedTuple


class PublishedModel(NamedTuple):
    """An entry of the wrapper's download lists.

    `names`: what it may be called in our loaders' lists, best first: the folder of the official download, then the one
    that the wrapper downloads into. `control`: whether it takes a video to follow where others take an image.
    """

    names: tuple[str, ...]
    control: bool = False


_BOTH_1_5 = "CogVideoX-5b-1.5"  # with both transformers and the VAE in it

MODELS: dict[str, PublishedModel] = {
    "THUDM/CogVideoX-2b": PublishedModel(("CogVideoX-2b", "CogVideo2B")),
    "THUDM/CogVideoX-5b": PublishedModel(("CogVideoX-5b",)),
    "THUDM/CogVideoX-5b-I2V": PublishedModel(("CogVideoX-5b-I2V",)),
    "kijai/CogVideoX-5b-1.5-T2V": PublishedModel(("CogVideoX1.5-5B", "CogVideoX-5b-1.5/transformer_T2V", _BOTH_1_5)),
    "kijai/CogVideoX-5b-1.5-I2V": PublishedModel(
        ("CogVideoX1.5-5B-I2V", "CogVideoX-5b-1.5/transformer_I2V", _BOTH_1_5)
    ),
    "bertjiazheng/KoolCogVideoX-5b": PublishedModel(("KoolCogVideoX-5b",)),
    "kijai/CogVideoX-Fun-2b": PublishedModel(("CogVideoX-Fun-2b-InP",)),
    "kijai/CogVideoX-Fun-5b": PublishedModel(("CogVideoX-Fun-5b-InP",)),
    "kijai/CogVideoX-5b-Tora": PublishedModel(("CogVideoX-5b-Tora",)),
    "alibaba-pai/CogVideoX-Fun-V1.1-2b-InP": PublishedModel(("CogVideoX-Fun-V1.1-2b-InP",)),
    "alibaba-pai/CogVideoX-Fun-V1.1-5b-InP": PublishedModel(("CogVideoX-Fun-V1.1-5b-InP",)),
    "alibaba-pai/CogVideoX-Fun-V1.1-2b-Pose": PublishedModel(("CogVideoX-Fun-V1.1-2b-Pose",), control=True),
    "alibaba-pai/CogVideoX-Fun-V1.1-5b-Pose": PublishedModel(("CogVideoX-Fun-V1.1-5b-Pose",), control=True),
    "alibaba-pai/CogVideoX-Fun-V1.1-5b-Control": PublishedModel(("CogVideoX-Fun-V1.1-5b-Control",), control=True),
    "alibaba-pai/CogVideoX-Fun-V1.5-5b-InP": PublishedModel(("CogVideoX-Fun-V1.5-5b-InP",)),
    "feizhengcong/CogvideoX-Interpolation": PublishedModel(("CogvideoX-Interpolation",)),
    "NimVideo/cogvideox-2b-img2vid": PublishedModel(("cogvideox-2b-img2vid",), control=True),
    "CogVideoX_5b_fun_1_1_Pose_GGUF_Q4_0.safetensors": PublishedModel(
        ("CogVideoX_5b_fun_1_1_Pose_GGUF_Q4_0.safetensors",), control=True
    ),
}
VAE_FILE = "cogvideox_vae.safetensors"  # what the wrapper downloads beside GGUF models; it serves them all

# Their precisions, by weight_dtype of CogVideoX Load Model.
PRECISIONS = {"bf16": "bf16", "fp16": "fp16", "fp32": "fp32"}

# Their quantizations that we have, by method of CogVideoX Quantize INT8.
QUANTIZATIONS = {"torchao_int8dq": "int8"}

# Their schedules of context windows, by context_schedule of ContextWindowsManual.
CONTEXT_SCHEDULES = {
    "uniform_standard": "standard_uniform",
    "uniform_looped": "looped_uniform",
    "static_standard": "standard_static",
}

# LoRA files that need 1 / rank where they are fused, by parts of their names, as the wrapper tells them.
DIVIDED_BY_RANK = ("orbit", "dimensionx")


class Rule(NamedTuple):
    """A scheduler of theirs: a sampler of ours, or one of ComfyUI's (of KSamplerSelect)."""

    official: str | None = None
    comfyui: str | None = None


# DDIM's step and Euler's in sigmas are the same formula. PNDM has no other likeness in ComfyUI than iPNDM.
SCHEDULERS: dict[str, Rule] = {
    "CogVideoXDDIM": Rule(official="ddim"),
    "DDIM": Rule(official="ddim"),
    "Euler": Rule(official="ddim"),
    "CogVideoXDPMScheduler": Rule(official="dpm++ 2m sde"),
    "DPM++": Rule(comfyui="dpmpp_2m"),
    "Euler A": Rule(comfyui="euler_ancestral"),
    "PNDM": Rule(comfyui="ipndm"),
    "SASolverScheduler": Rule(comfyui="sa_solver"),
    "UniPCMultistepScheduler": Rule(comfyui="uni_pc"),
    "HeunDiscreteScheduler": Rule(comfyui="heun"),
    "DEISMultistepScheduler": Rule(comfyui="deis"),
    "LCMScheduler": Rule(comfyui="lcm"),
}
