"""Loaders: transformer, VAE and text encoder, each from a file or a diffusers folder, or the demo model."""

from __future__ import annotations

from typing import Literal

import torch
from comfy_api.latest import io

from ..cogvideox_core.kernels.devices import accelerators
from .host.types.clip import load_clip
from .host.types.folders import choices, chosen, fault_of
from .host.types.model import load_model
from .host.types.vae import load_vae

_WEIGHT_DTYPES = {"default": None, "bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def _text_encoder_devices() -> dict[str, torch.device | None]:
    """What the text encoder may be put on: ComfyUI's choice, the CPU, or one of several cards."""
    there = {"default": None, "cpu": torch.device("cpu")}
    cards = accelerators()
    return there | ({str(card): card for card in cards} if len(cards) > 1 else {})


class CogVideoXLoadModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CogVideoXLoadModel",
            display_name="CogVideoX Load Model",
            category="CogVideoX/loaders",
            description=(
                "Loads a CogVideoX transformer in any form people have it: a diffusers folder, a trainer's checkpoint, "
                ".safetensors in 16, 8 or 4 bits, .gguf, or SAT's .pt. Which of the models it is, is read from the "
                "weights."
            ),
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=list(choices("transformer")),
                    tooltip="From models/diffusion_models and models/diffusers, or the demo model that is in the pack.",
                ),
                io.Combo.Input(
                    "weight_dtype",
                    options=list(_WEIGHT_DTYPES),
                    default="default",
                    optional=True,
                    advanced=True,
                    tooltip="Precision of the weights in memory. default: what suits file and device. fp16 is for 2B; "
                    "the 5B and 1.5 models overflow in it, so they compute in bf16 or fp32 then, too.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model, for any sampler.")],
            search_aliases=[
                "checkpoint",
                "diffusion model",
                "unet",
                "gguf",
                "DownloadAndLoadCogVideoModel",
                "DownloadAndLoadCogVideoGGUFModel",
                "CogVideoXModelLoader",
            ],
        )

    @classmethod
    def validate_inputs(cls, model_name: str) -> bool | str:
        return fault_of("transformer", model_name) or True

    @classmethod
    def execute(cls, model_name: str, weight_dtype: str = "default") -> io.NodeOutput:
        return io.NodeOutput(load_model(chosen("transformer", model_name), _WEIGHT_DTYPES[weight_dtype]))


class CogVideoXLoadVAE(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CogVideoXLoadVAE",
            display_name="CogVideoX Load VAE",
            category="CogVideoX/loaders",
            description="Loads the CogVideoX video VAE. The same VAE serves all five models.",
            inputs=[
                io.Combo.Input(
                    "vae_name",
                    options=list(choices("vae")),
                    tooltip="From models/vae and models/diffusers, or the demo model that is in the pack.",
                )
            ],
            outputs=[io.Vae.Output(tooltip="The VAE, for ours and for ComfyUI's encode and decode nodes.")],
            search_aliases=["vae loader", "CogVideoXVAELoader"],
        )

    @classmethod
    def validate_inputs(cls, vae_name: str) -> bool | str:
        return fault_of("vae", vae_name) or True

    @classmethod
    def execute(cls, vae_name: str) -> io.NodeOutput:
        return io.NodeOutput(load_vae(chosen("vae", vae_name)))


class CogVideoXLoadT5(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CogVideoXLoadT5",
            display_name="CogVideoX Load T5",
            category="CogVideoX/loaders",
            description="Loads the T5 text encoder of a CogVideoX model, with its tokenizer.",
            inputs=[
                io.Combo.Input(
                    "text_encoder_name",
                    options=list(choices("text_encoder")),
                    tooltip="From models/text_encoders and models/diffusers, or the demo model that is in the pack.",
                ),
                io.Combo.Input(
                    "quantize",
                    options=["none", "int8"],
                    default="none",
                    optional=True,
                    advanced=True,
                    tooltip="int8: the large matrices in half the memory of 16 bits. Quantized files stay as they are.",
                ),
                io.Combo.Input(
                    "device",
                    options=list(_text_encoder_devices()),
                    default="default",
                    optional=True,
                    advanced=True,
                    tooltip="Where prompts are encoded. default: where ComfyUI decides. cpu: slower, and the card "
                    "keeps its memory for the model. Of several cards each is a choice, too.",
                ),
            ],
            outputs=[io.Clip.Output(tooltip="The text encoder, for CogVideoX T5 Encode and CLIP Text Encode.")],
            search_aliases=["text encoder", "t5xxl", "load clip", "CLIPLoader"],
        )

    @classmethod
    def validate_inputs(cls, text_encoder_name: str) -> bool | str:
        return fault_of("text_encoder", text_encoder_name) or True

    @classmethod
    def execute(
        cls, text_encoder_name: str, quantize: Literal["none", "int8"] = "none", device: str = "default"
    ) -> io.NodeOutput:
        path = chosen("text_encoder", text_encoder_name)
        return io.NodeOutput(load_clip(path, quantize, _text_encoder_devices()[device]))
