"""Where a video starts from: an empty latent, or images."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import torch
from comfy_api.latest import io

from ..cogvideox_core.models.config import PositionTable
from ..cogvideox_core.models.shapes import VideoSize
from ..cogvideox_core.pipeline.conditioning import Fit
from ..cogvideox_core.videos.background import WHITE
from .host.types.conditioning import (
    LatentCondition,
    Target,
    control_condition,
    empty_latent,
    image_condition,
    known_frames_condition,
    mask_condition,
    takes_known_frames,
)
from .sizes import checked_size, fit_input, size_fault, size_inputs

# What users search for in Chinese; written as escapes, as Windows reads Python files in its own encoding.
_TEXT_TO_VIDEO = "\u6587\u751f\u89c6\u9891"


class CogVideoXEmptyLatent(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CogVideoXEmptyLatent",
            display_name="CogVideoX Empty Latent",
            category="CogVideoX/conditioning",
            description="An empty video latent, checked against what the model can make.",
            inputs=[
                io.Model.Input("model", tooltip="The model the latent is for; only its rules are used."),
                *size_inputs(),
                io.Int.Input(
                    "batch_size", default=1, min=1, max=64, optional=True, advanced=True, tooltip="Videos at a time."
                ),
                io.Boolean.Input(
                    "allow_any_size",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Allow more frames than the model was trained for, with a LoRA for such a length or with "
                    "context windows.",
                ),
            ],
            outputs=[io.Latent.Output(tooltip="For a sampler.")],
            search_aliases=["empty video", "text to video", "t2v", _TEXT_TO_VIDEO, "EmptyHunyuanLatentVideo"],
        )

    @classmethod
    def validate_inputs(cls, width: int, height: int, length: int) -> bool | str:
        return size_fault(width, height, length) or True

    @classmethod
    def execute(
        cls, model, width: int, height: int, length: int, batch_size: int = 1, allow_any_size: bool = False
    ) -> io.NodeOutput:
        return io.NodeOutput(empty_latent(model, VideoSize(height, width, length), batch_size, allow_any_size))


class CogVideoXImageToVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CogVideoXImageToVideo",
            display_name="CogVideoX Image to Video",
            category="CogVideoX/conditioning",
            description=(
                "Makes a video start from an image, and optionally end with another: for the I2V models, and with the "
                "model linked for CogVideoX-Fun InP. The images become channels of the model's input."
            ),
            inputs=[
                io.Conditioning.Input("positive", tooltip="The prompt."),
                io.Conditioning.Input("negative", tooltip="What to avoid."),
                io.Vae.Input("vae", tooltip="From CogVideoX Load VAE."),
                io.Image.Input("start_image", tooltip="The first frame."),
                io.Image.Input("end_image", optional=True, tooltip="The last frame; leave empty for a free ending."),
                *size_inputs(),
                fit_input("refuse"),
                _image_scale_input(),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="For a CogVideoX-Fun InP model: the model. It gets the images as the known frames of a "
                    "masked video. The I2V models need no link.",
                ),
                _position_table_input(),
                io.Color.Input(
                    "background",
                    default="#ffffff",
                    optional=True,
                    advanced=True,
                    tooltip="Colour behind images with transparency, such as Join Image with Alpha makes of Load "
                    "Image's two outputs.",
                ),
            ],
            outputs=_conditioning_outputs("the images"),
            search_aliases=[
                "i2v",
                "image to video",
                "start image",
                "first frame",
                "last frame",
                "CogVideoImageEncode",
                "CogVideoImageEncodeFunInP",
            ],
        )

    @classmethod
    def validate_inputs(cls, width: int, height: int, length: int) -> bool | str:
        return size_fault(width, height, length) or True

    @classmethod
    def execute(
        cls,
        positive,
        negative,
        vae,
        start_image: torch.Tensor,
        width: int,
        height: int,
        length: int,
        end_image: torch.Tensor | None = None,
        image_fit: Fit = "refuse",
        image_scale: str = "diffusers",
        model=None,
        position_table: PositionTable = "trained",
        background: str = WHITE,
    ) -> io.NodeOutput:
        """start_image and end_image: IMAGEs [1, H, W, C] in 0 to 1."""
        target = Target(checked_size(width, height, length), image_fit, background)
        for name, image in (("start_image", start_image), ("end_image", end_image)):
            if image is not None and len(image) > 1:
                raise ValueError(f"{name} holds {len(image)} images; give one (Get Image from Batch takes one out)")
        if model is not None and takes_known_frames(model):
            return _conditioned(positive, negative, known_frames_condition(vae, start_image, end_image, target))
        condition = image_condition(vae, start_image, end_image, target, image_scale)
        return _conditioned(positive, negative, replace(condition, position_table=position_table))


class CogVideoXControl(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CogVideoXControl",
            display_name="CogVideoX Control",
            category="CogVideoX/conditioning",
            description=(
                "Makes a video follow another one (poses, edges, depth): for CogVideoX-Fun Control and Pose models. "
                "With a single image, repeated for every frame, also for NimVideo's image to video."
            ),
            inputs=[
                io.Conditioning.Input("positive", tooltip="The prompt."),
                io.Conditioning.Input("negative", tooltip="What to avoid."),
                io.Vae.Input("vae", tooltip="From CogVideoX Load VAE."),
                io.Image.Input("control_video", tooltip="The video to follow, or one image for all frames."),
                *size_inputs(),
                fit_input("refuse"),
            ],
            outputs=_conditioning_outputs("the control video"),
            search_aliases=["controlnet", "video to video", "pose", "canny", "depth", "CogVideoXFunControl"],
        )

    @classmethod
    def validate_inputs(cls, width: int, height: int, length: int) -> bool | str:
        return size_fault(width, height, length) or True

    @classmethod
    def execute(
        cls,
        positive,
        negative,
        vae,
        control_video: torch.Tensor,
        image_fit: Fit = "refuse",
        **size: int,
    ) -> io.NodeOutput:
        """control_video: IMAGE [F, H, W, C] in 0 to 1; size: width, height and length."""
        target = Target(checked_size(**size), image_fit)
        return _conditioned(positive, negative, control_condition(vae, control_video, target))


class CogVideoXInpaint(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CogVideoXInpaint",
            display_name="CogVideoX Inpaint",
            category="CogVideoX/conditioning",
            description=(
                "Replaces the masked part of a video: for CogVideoX-Fun InP models, and for VOID, which removes "
                "objects. With frames masked as a whole, a video continues an image or connects two."
            ),
            inputs=[
                io.Model.Input("model", tooltip="The model it is for; only its rules are used."),
                io.Conditioning.Input("positive", tooltip="The prompt."),
                io.Conditioning.Input("negative", tooltip="What to avoid."),
                io.Vae.Input("vae", tooltip="From CogVideoX Load VAE."),
                io.Image.Input("video", tooltip="The video to change."),
                io.Mask.Input(
                    "mask",
                    tooltip="White where the video is replaced, one mask or one per frame. For VOID: from VOID "
                    "Quadmask Preprocessor.",
                ),
                *size_inputs(),
                fit_input("refuse"),
            ],
            outputs=_conditioning_outputs("the masked video"),
            search_aliases=[
                "inpaint",
                "mask",
                "InP",
                "VOID",
                "object removal",
                "extend video",
                "CogVideoXFunInp",
            ],
        )

    @classmethod
    def validate_inputs(cls, width: int, height: int, length: int) -> bool | str:
        return size_fault(width, height, length) or True

    @classmethod
    def execute(
        cls,
        model,
        positive,
        negative,
        vae,
        video: torch.Tensor,
        mask: torch.Tensor,
        width: int,
        height: int,
        length: int,
        image_fit: Fit = "refuse",
    ) -> io.NodeOutput:
        """video: IMAGE [F, H, W, C]; mask: [F or 1, H, W]; both in 0 to 1."""
        target = Target(checked_size(width, height, length), image_fit)
        return _conditioned(positive, negative, mask_condition(model, vae, video, mask, target))


def _image_scale_input():
    return io.Combo.Input(
        "image_scale",
        options=["diffusers", "sat", "scaled"],
        default="diffusers",
        optional=True,
        advanced=True,
        tooltip="Scale of the image latents of CogVideoX1.5, where published codes disagree: diffusers (z / 0.7), SAT "
        "(z), or 0.7 z as most fine-tuning code trains. No effect on 5B-I2V.",
    )


def _position_table_input():
    return io.Combo.Input(
        "position_table",
        options=list(get_args(PositionTable)),
        default="trained",
        optional=True,
        advanced=True,
        tooltip="5B-I2V at other sizes and lengths than 720x480 and 49 frames: its learned position table "
        "interpolated, or omitted as many LoRAs and fine-tunes were trained. No effect on other models.",
    )


def _conditioning_outputs(what: str) -> list:
    return [
        io.Conditioning.Output("positive", tooltip=f"The prompt with {what}."),
        io.Conditioning.Output("negative", tooltip=f"What to avoid, with {what}."),
        io.Latent.Output(tooltip="An empty latent of this size, for the sampler."),
    ]


def _conditioned(positive, negative, condition: LatentCondition) -> io.NodeOutput:
    return io.NodeOutput(condition.on(positive), condition.on(negative), condition.empty_latent())
