"""Where a video starts from: an empty latent, or images."""

from __future__ import annotations

import comfy.model_management
import node_helpers
import torch
from comfy_api.latest import io

from ..cogvideox_core.models.shapes import LatentSize, VideoSize, check_size, latent_size
from ..cogvideox_core.models.variants import Conditioning
from ..cogvideox_core.pipeline.conditioning import (
    Fit,
    control_latents,
    image_latents,
    image_pixels,
    inpaint_latents,
    mask_pixels,
    masked_video,
    quadmask_latents,
    quadmask_videos,
    video_pixels,
)
from .host.types.model import cogvideox_model
from .host.types.vae import cogvideox_vae
from .sizes import checked_size, size_fault, size_inputs

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
            ],
            outputs=[io.Latent.Output(tooltip="For a sampler.")],
            search_aliases=["empty video", "text to video", "t2v", _TEXT_TO_VIDEO, "EmptyHunyuanLatentVideo"],
        )

    @classmethod
    def validate_inputs(cls, width: int, height: int, length: int) -> bool | str:
        return size_fault(width, height, length) or True

    @classmethod
    def execute(cls, model, width: int, height: int, length: int, batch_size: int = 1) -> io.NodeOutput:
        rules, size = cogvideox_model(model), VideoSize(height, width, length)
        check_size(size, rules.config, rules.variant)
        clip = latent_size(size, rules.config, rules.variant).without_leading()
        samples = torch.zeros(
            clip.shape(batch_size, rules.config.out_channels), device=comfy.model_management.intermediate_device()
        )
        return io.NodeOutput({"samples": samples})


class CogVideoXImageToVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CogVideoXImageToVideo",
            display_name="CogVideoX Image to Video",
            category="CogVideoX/conditioning",
            description=(
                "Makes a video start from an image, and optionally end with another: for the I2V models, and with the "
                "model linked for CogVideoX-Fun InP. The images go beside the noise as channels."
            ),
            inputs=[
                io.Conditioning.Input("positive", tooltip="The prompt."),
                io.Conditioning.Input("negative", tooltip="What to avoid."),
                io.Vae.Input("vae", tooltip="From CogVideoX Load VAE."),
                io.Image.Input("start_image", tooltip="The first frame."),
                io.Image.Input("end_image", optional=True, tooltip="The last frame; leave empty for a free ending."),
                *size_inputs(),
                _fit_input(),
                io.Combo.Input(
                    "image_scale",
                    options=["diffusers", "sat", "scaled"],
                    default="diffusers",
                    optional=True,
                    advanced=True,
                    tooltip="Scale of the image latents of CogVideoX1.5, where published codes disagree: diffusers "
                    "(z / 0.7), SAT (z), or 0.7 z as most fine-tuning code trains. No effect on 5B-I2V.",
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="For a CogVideoX-Fun InP model: the model. It gets the images as the known frames of a "
                    "masked video. The I2V models need no link.",
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
    ) -> io.NodeOutput:
        size = checked_size(width, height, length)
        for name, image in (("start_image", start_image), ("end_image", end_image)):
            if image is not None and len(image) > 1:
                raise ValueError(f"{name} holds {len(image)} images; give one (Get Image from Batch takes one out)")
        if end_image is not None and length == 1:
            raise ValueError("length=1 with an end image; a video from start to end takes at least 9 frames")
        vae = cogvideox_vae(vae)
        if model is not None and cogvideox_model(model).variant.conditioning == "inpaint":
            return _masked_beyond(positive, negative, vae, start_image, end_image, size, image_fit)
        first, last = (
            None if image is None else _encode(vae, image, size, image_fit) for image in (start_image, end_image)
        )
        z = image_latents(first, last, _clip_size(vae, size))
        values = {"concat_latent_image": z, "cogvideox_image_scale": image_scale}
        return io.NodeOutput(
            node_helpers.conditioning_set_values(positive, values),
            node_helpers.conditioning_set_values(negative, values),
            {"samples": torch.zeros_like(z)},
        )


def _masked_beyond(
    positive, negative, vae, first: torch.Tensor, last: torch.Tensor | None, size: VideoSize, fit: Fit
) -> io.NodeOutput:
    """For an inpainting model: a video of which all frames but the given ones are masked, [1, H, W, C] each."""
    hidden = torch.ones(1, 1, size.num_frames, size.height, size.width)
    pixels = torch.zeros(1, 3, size.num_frames, size.height, size.width)
    for frame, image in ((0, first), (size.num_frames - 1, last)):
        if image is not None:
            pixels[:, :, frame] = image_pixels(image[..., :3].movedim(-1, 1), size, fit=fit)[:, :, 0]
            hidden[:, :, frame] = 0.0
    z = inpaint_latents(hidden, _encode_video(vae, masked_video(pixels, hidden)), _clip_size(vae, size))
    return _conditioned(positive, negative, z, "inpaint", vae)


def _encode(vae, image: torch.Tensor, size: VideoSize, fit: Fit) -> torch.Tensor:
    """z [1, 16, 1, h, w] of an IMAGE [1, H, W, C]."""
    pixels = image_pixels(image[..., :3].movedim(-1, 1), size, fit=fit)  # [1, 3, 1, H, W] in -1 to 1
    return vae.encode((pixels[:, :, 0].movedim(1, -1) + 1.0) / 2.0)


class CogVideoXControl(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CogVideoXControl",
            display_name="CogVideoX Control",
            category="CogVideoX/conditioning",
            description=(
                "Makes a video follow another one (poses, edges, depth): for CogVideoX-Fun Control and Pose models. "
                "With a single image, which then stands on every frame, also for NimVideo's image to video."
            ),
            inputs=[
                io.Conditioning.Input("positive", tooltip="The prompt."),
                io.Conditioning.Input("negative", tooltip="What to avoid."),
                io.Vae.Input("vae", tooltip="From CogVideoX Load VAE."),
                io.Image.Input("control_video", tooltip="The video to follow, or one image for all frames."),
                *size_inputs(),
                _fit_input(),
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
        width: int,
        height: int,
        length: int,
        image_fit: Fit = "refuse",
    ) -> io.NodeOutput:
        vae, size = cogvideox_vae(vae), checked_size(width, height, length)
        pixels = _pixels(control_video, size, image_fit, "control_video", single=True)
        z = control_latents(_encode_video(vae, pixels), _clip_size(vae, size))
        return _conditioned(positive, negative, z, "control", vae)


class CogVideoXInpaint(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CogVideoXInpaint",
            display_name="CogVideoX Inpaint",
            category="CogVideoX/conditioning",
            description=(
                "Makes the masked part of a video anew: for CogVideoX-Fun InP models, and for VOID, which removes "
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
                    tooltip="White where it is made anew, one mask or one per frame. For VOID: from VOID Quadmask "
                    "Preprocessor.",
                ),
                *size_inputs(),
                _fit_input(),
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
        variant = cogvideox_model(model).variant
        if variant.conditioning not in ("inpaint", "quadmask"):
            raise ValueError(f"{variant.name} takes no mask; give a CogVideoX-Fun InP model or VOID")
        vae, size = cogvideox_vae(vae), checked_size(width, height, length)
        pixels = _pixels(video, size, image_fit, "video")
        hidden, clip = mask_pixels(mask, size, fit=image_fit), _clip_size(vae, size)
        if variant.conditioning == "quadmask":
            z = quadmask_latents(*(_encode_video(vae, shown) for shown in quadmask_videos(pixels, hidden)), clip)
        else:
            z = inpaint_latents(hidden, _encode_video(vae, masked_video(pixels, hidden)), clip)
        return _conditioned(positive, negative, z, variant.conditioning, vae)


def _fit_input():
    return io.Combo.Input(
        "image_fit",
        options=["refuse", "crop", "stretch"],
        default="refuse",
        optional=True,
        tooltip="Frames of another aspect ratio than width and height: stop with an error, keep their middle, or "
        "distort them.",
    )


def _conditioning_outputs(what: str) -> list:
    return [
        io.Conditioning.Output("positive", tooltip=f"The prompt with {what}."),
        io.Conditioning.Output("negative", tooltip=f"What to avoid, with {what}."),
        io.Latent.Output(tooltip="An empty latent of this size, for the sampler."),
    ]


def _pixels(video: torch.Tensor, size: VideoSize, fit: Fit, name: str, *, single: bool = False) -> torch.Tensor:
    """[1, 3, F, H, W] in -1 to 1 of an IMAGE [F, H, W, C]; `single` allows one frame for all."""
    if len(video) < size.num_frames and not (single and len(video) == 1):
        raise ValueError(
            f"{name} has {len(video)} frames for length={size.num_frames}; give as many, or a smaller length"
        )
    return video_pixels(video[..., :3].movedim(-1, 1), size, fit=fit)


def _encode_video(vae, pixels: torch.Tensor) -> torch.Tensor:
    """z [1, 16, T, h, w], the mean, of [1, 3, F, H, W] in -1 to 1."""
    return vae.encode((pixels[0].movedim(0, -1) + 1.0) / 2.0)


def _clip_size(vae, size: VideoSize) -> LatentSize:
    """Latents of a clip without leading frames, which belong to the sampling."""
    ratio = vae.first_stage_model.config.spatial_compression_ratio
    return LatentSize(vae.downscale_ratio[0](size.num_frames), size.height // ratio, size.width // ratio, leading=0)


def _conditioned(positive, negative, z: torch.Tensor, kind: Conditioning, vae) -> io.NodeOutput:
    values = {"concat_latent_image": z, "cogvideox_conditioning": kind, "cogvideox_image_scale": "scaled"}
    return io.NodeOutput(
        node_helpers.conditioning_set_values(positive, values),
        node_helpers.conditioning_set_values(negative, values),
        {"samples": torch.zeros_like(z[:, : vae.latent_channels])},
    )
