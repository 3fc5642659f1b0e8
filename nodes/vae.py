"""Frames to latents and back."""

from __future__ import annotations

from typing import cast

import torch
from comfy_api.latest import io

from ..cogvideox_core.models.shapes import VideoSize
from ..cogvideox_core.models.vae.memory_plan import TILING_CHOICES, Plan, TilingChoice
from ..cogvideox_core.models.vae.tiling import Tiling
from .host.types.clips import joined, split
from .host.types.vae import CogVideoXVAE, Task, cogvideox_vae
from .sizes import size_fault

# What users search for in Chinese; written as escapes, as Windows reads Python files in its own encoding.
_VIDEO_TO_VIDEO = "\u89c6\u9891\u751f\u89c6\u9891"
_FORMER = {"off": "exact"}  # what workflows of before say


def _tiling_inputs() -> list[io.Input]:
    return [
        io.Combo.Input(
            "tiling",
            options=list(TILING_CHOICES),
            default="auto",
            tooltip="exact: the whole picture, in memory that does not grow with the number of frames. blended: "
            "overlapping tiles as in diffusers, for less memory; close to the exact picture, but not the same. auto: "
            "exact where memory allows it, else blended, and the log says so.",
        ),
        *(
            io.Int.Input(
                name,
                default=0,
                min=0,
                max=4096,
                step=8,
                optional=True,
                advanced=True,
                tooltip=f"{side} of a blended tile in pixels. 0: half the size the model was trained at.",
            )
            for name, side in (("tile_width", "Width"), ("tile_height", "Height"))
        ),
    ]


def _tiling_fault(tiling: str | None) -> str | None:
    """What is wrong with a choice; a linked one is known when it arrives."""
    if tiling is None or tiling in TILING_CHOICES or tiling in _FORMER:
        return None
    return f"tiling={tiling!r}; there are {', '.join(map(repr, TILING_CHOICES))}"


def _plan(vae: CogVideoXVAE, task: Task, size: VideoSize, tiling: str, tile_width: int, tile_height: int) -> Plan:
    """How to go about a clip. Raises: ValueError if there is no such choice."""
    if fault := _tiling_fault(tiling):
        raise ValueError(fault)
    tiles = Tiling.of(vae.first_stage_model.config, tile_height, tile_width)
    return vae.plan(task, cast(TilingChoice, _FORMER.get(tiling, tiling)), size, tiles)


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
                *_tiling_inputs(),
            ],
            outputs=[io.Latent.Output(tooltip="For a sampler with denoise below 1.")],
            search_aliases=["video to video", "v2v", "vid2vid", _VIDEO_TO_VIDEO],
        )

    @classmethod
    def validate_inputs(cls, tiling: str | None) -> bool | str:
        return _tiling_fault(tiling) or True

    @classmethod
    def execute(
        cls, pixels: torch.Tensor, vae, tiling: str, tile_width: int = 0, tile_height: int = 0
    ) -> io.NodeOutput:
        """pixels: IMAGE [F, H, W, C] in 0 to 1."""
        vae = cogvideox_vae(vae)
        length, height, width = pixels.shape[:3]
        if fault := size_fault(width, height, length):
            raise ValueError(f"{fault} (scale or trim the frames before encoding)")
        plan = _plan(vae, "encode", VideoSize(height, width, length), tiling, tile_width, tile_height)
        frames = pixels[..., :3]
        z = vae.encode(frames) if plan.tiling is None else vae.encode_blended(frames, plan.tiling)
        return io.NodeOutput({"samples": z})


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
                *_tiling_inputs(),
            ],
            outputs=[
                io.Image.Output(tooltip="The frames; of a batch, those of one clip after the other."),
                io.Image.Output(
                    "clips",
                    is_output_list=True,
                    tooltip="The frames of each clip by itself: the nodes behind this output run once for every clip.",
                ),
            ],
            search_aliases=["vae decode", "tiled decode", "CogVideoDecode"],
        )

    @classmethod
    def validate_inputs(cls, tiling: str | None) -> bool | str:
        return _tiling_fault(tiling) or True

    @classmethod
    def execute(cls, samples: dict, vae, tiling: str, tile_width: int = 0, tile_height: int = 0) -> io.NodeOutput:
        vae, z = cogvideox_vae(vae), samples["samples"]
        if not torch.isfinite(z).all():
            raise ValueError(
                "the latent holds NaN or infinite values; the likely cause is the model's dtype: the 5B and 1.5 models "
                "need bf16 or fp32"
            )
        size = vae.first_stage_model.video_size(z.shape)
        plan = _plan(vae, "decode", size, tiling, tile_width, tile_height)
        frames = vae.decode(z) if plan.tiling is None else vae.decode_blended(z, plan.tiling)
        images = joined(frames)  # [B, F, H, W, C] -> IMAGE
        return io.NodeOutput(images, split(images))
