"""Frames to latents and back."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..cogvideox_core.vae import Tiling
from .host.vae import CogVideoXVAE, cogvideox_vae
from .sizes import size_fault

_TILING = io.Combo.Input(
    "tiling",
    options=["off", "blended"],
    default="off",
    tooltip="off: exact; memory does not grow with the number of frames. blended: overlapping tiles as in diffusers, "
    "for less memory; close to the exact picture, but not the same.",
)


class CogVideoXVAEEncode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CogVideoXVAEEncode",
            display_name="CogVideoX VAE Encode",
            category="CogVideoX/latent",
            description="Encodes frames for video to video: 8n+1 of them, sides in multiples of 16.",
            inputs=[
                io.Image.Input("pixels", tooltip="The frames of one video."),
                io.Vae.Input("vae", tooltip="From CogVideoX Load VAE."),
                _TILING,
            ],
            outputs=[io.Latent.Output(tooltip="For a sampler with denoise below 1.")],
            search_aliases=["video to video", "v2v"],
        )

    @classmethod
    def execute(cls, pixels: torch.Tensor, vae, tiling: str) -> io.NodeOutput:
        vae = cogvideox_vae(vae)
        length, height, width = pixels.shape[:3]
        if fault := size_fault(width, height, length):
            raise ValueError(f"{fault} (scale or trim the frames before encoding)")
        if tiling == "off":
            return io.NodeOutput({"samples": vae.encode(pixels[..., :3])})
        return io.NodeOutput({"samples": vae.encode_tiled(pixels[..., :3], **_pixel_tiles(vae))})


class CogVideoXVAEDecode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CogVideoXVAEDecode",
            display_name="CogVideoX VAE Decode",
            category="CogVideoX/latent",
            description="Decodes a latent to frames, in the official chunks.",
            inputs=[
                io.Latent.Input("samples", tooltip="From a sampler."),
                io.Vae.Input("vae", tooltip="From CogVideoX Load VAE."),
                _TILING,
            ],
            outputs=[io.Image.Output(tooltip="The frames.")],
            search_aliases=["CogVideoDecode"],
        )

    @classmethod
    def execute(cls, samples: dict, vae, tiling: str) -> io.NodeOutput:
        vae, z = cogvideox_vae(vae), samples["samples"]
        if not torch.isfinite(z).all():
            raise ValueError(
                "the latent holds NaN or infinite values; the likely cause is the model's dtype: the 5B and 1.5 models "
                "need bf16 or fp32"
            )
        if tiling == "off":
            frames = vae.decode(z)
        else:
            ratio = vae.first_stage_model.config.spatial_compression_ratio
            tiles = {name: pixels // ratio for name, pixels in _pixel_tiles(vae).items()}
            frames = vae.decode_tiled(z, **tiles)
        return io.NodeOutput(frames.flatten(0, 1))  # [B, F, H, W, C] -> IMAGE


def _pixel_tiles(vae: CogVideoXVAE) -> dict[str, int]:
    """Half the training size, as diffusers tiles."""
    tiling = Tiling.of(vae.first_stage_model.config)
    overlap = round(tiling.tile_height * tiling.overlap_height)
    return {"tile_x": tiling.tile_width, "tile_y": tiling.tile_height, "overlap": overlap}
