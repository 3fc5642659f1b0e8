"""Where a video starts from: an empty latent, or images."""

from __future__ import annotations

import comfy.model_management
import node_helpers
import torch
from comfy_api.latest import io

from ..cogvideox_core.conditioning import Fit, image_latents, image_pixels
from ..cogvideox_core.shapes import LatentSize, VideoSize, check_size, latent_size
from .host.model import cogvideox_model
from .host.vae import cogvideox_vae
from .sizes import size_fault, size_inputs


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
            search_aliases=["empty video", "text to video", "t2v"],
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
                "Makes a video start from an image, and optionally end with another: for the I2V models. The images go "
                "beside the noise as channels."
            ),
            inputs=[
                io.Conditioning.Input("positive", tooltip="The prompt."),
                io.Conditioning.Input("negative", tooltip="What to avoid."),
                io.Vae.Input("vae", tooltip="From CogVideoX Load VAE."),
                io.Image.Input("start_image", tooltip="The first frame."),
                io.Image.Input("end_image", optional=True, tooltip="The last frame; leave empty for a free ending."),
                *size_inputs(),
                io.Combo.Input(
                    "image_fit",
                    options=["refuse", "crop", "stretch"],
                    default="refuse",
                    optional=True,
                    tooltip="Images of another aspect ratio than width and height: stop with an error, keep their "
                    "middle, or distort them.",
                ),
                io.Combo.Input(
                    "image_scale",
                    options=["diffusers", "sat", "scaled"],
                    default="diffusers",
                    optional=True,
                    advanced=True,
                    tooltip="Scale of the image latents of CogVideoX1.5, where published codes disagree: diffusers "
                    "(z / 0.7), SAT (z), or 0.7 z as most fine-tuning code trains. No effect on 5B-I2V.",
                ),
            ],
            outputs=[
                io.Conditioning.Output("positive", tooltip="The prompt with the images."),
                io.Conditioning.Output("negative", tooltip="What to avoid, with the images."),
                io.Latent.Output(tooltip="An empty latent of this size, for the sampler."),
            ],
            search_aliases=["i2v", "first frame", "last frame", "CogVideoImageEncode"],
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
    ) -> io.NodeOutput:
        if fault := size_fault(width, height, length):
            raise ValueError(fault)
        for name, image in (("start_image", start_image), ("end_image", end_image)):
            if image is not None and len(image) > 1:
                raise ValueError(f"{name} holds {len(image)} images; give one (Image From Batch takes one out)")
        if end_image is not None and length == 1:
            raise ValueError("length=1 with an end image; a video from start to end takes at least 9 frames")
        vae, size = cogvideox_vae(vae), VideoSize(height, width, length)
        first, last = (
            None if image is None else _encode(vae, image, size, image_fit) for image in (start_image, end_image)
        )
        ratio = vae.first_stage_model.config.spatial_compression_ratio
        frames = vae.downscale_ratio[0](length)
        z = image_latents(first, last, LatentSize(frames, height // ratio, width // ratio, leading=0))
        values = {"concat_latent_image": z, "cogvideox_image_scale": image_scale}
        return io.NodeOutput(
            node_helpers.conditioning_set_values(positive, values),
            node_helpers.conditioning_set_values(negative, values),
            {"samples": torch.zeros_like(z)},
        )


def _encode(vae, image: torch.Tensor, size: VideoSize, fit: Fit) -> torch.Tensor:
    """z [1, 16, 1, h, w] of an IMAGE [1, H, W, C]."""
    pixels = image_pixels(image[..., :3].movedim(-1, 1), size, fit=fit)  # [1, 3, 1, H, W] in -1 to 1
    return vae.encode((pixels[:, :, 0].movedim(1, -1) + 1.0) / 2.0)
