"""Frames to latents and back."""

from __future__ import annotations

from typing import Any, cast

import torch
from comfy_api.latest import io

from ..cogvideox_core.models.shapes import LARGEST_SIDE, VideoSize
from ..cogvideox_core.models.vae.memory_plan import Plan
from ..cogvideox_core.models.vae.tiling import TILING_CHOICES, Tiling, TilingChoice
from ..cogvideox_core.models.variants import DERIVED, VARIANTS
from ..cogvideox_core.pipeline.conditioning import Fit
from ..cogvideox_core.videos.frame_times import EVERY_FRAME, MODELS_RATE, Rate
from .host.types.clips import joined, split
from .host.types.lengths import asked_frames, computed_image, with_length
from .host.types.model import cogvideox_model
from .host.types.vae import CogVideoXVAE, Task, cogvideox_vae
from .host.types.video import Wanted, image_frames, variant_of_vae, video_frames
from .sizes import LONGEST, MULTIPLE, fit_input, size_fault

# What users search for in Chinese; written as escapes, as Windows reads Python files in its own encoding.
_VIDEO_TO_VIDEO = "\u89c6\u9891\u751f\u89c6\u9891"
_FORMER = {"off": "exact"}  # what workflows of before say
_MODELS_FPS = sorted({row.defaults.fps for row in (VARIANTS | DERIVED).values()})
_RATES = {str(fps): float(fps) for fps in _MODELS_FPS}


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


def _video_inputs() -> list[io.Input]:
    return [
        io.Video.Input(
            "video",
            optional=True,
            tooltip="A video of any size and frame rate, from Load Video, in place of pixels.",
        ),
        io.Combo.Input(
            "video_fps",
            options=[MODELS_RATE, EVERY_FRAME, *_RATES],
            default=MODELS_RATE,
            optional=True,
            tooltip="Which frames of the video: those at the model's frame rate, so that motion keeps its speed; every "
            "one; or so many per second. The log says which seconds are used.",
        ),
        *_frame_inputs(),
        io.Model.Input(
            "model",
            optional=True,
            tooltip="The model that the video is for: its frame rate and most frames are taken. Without a link, those "
            "that the VAE's folder tells, or those of the 1.0 models.",
        ),
    ]


def _frame_inputs() -> list[io.Input]:
    """What the frames are fitted to."""
    sides = [
        io.Int.Input(
            name,
            default=0,
            min=0,
            max=LARGEST_SIDE,
            step=MULTIPLE,
            optional=True,
            tooltip=f"Pixels: 720 x 480; 1360 x 768 for 1.5. 0: the {name} that the frames have.",
        )
        for name in ("width", "height")
    ]
    length = io.Int.Input(
        "length",
        default=0,
        min=0,
        max=LONGEST,
        optional=True,
        tooltip="Frames, from the beginning. 0: all there are, of a video no more than the model was trained for.",
    )
    return [*sides, length, fit_input("crop")]


def _wanted(video_fps: str = MODELS_RATE, image_fit: Fit = "crop", **size: int) -> Wanted:
    """What the widgets say of the frames that are taken."""
    return Wanted(rate=cast(Rate, _RATES.get(video_fps, video_fps)), fit=image_fit, **size)


class CogVideoXVAEEncode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CogVideoXVAEEncode",
            display_name="CogVideoX VAE Encode",
            category="CogVideoX/latent",
            description="Encodes a video, or frames, for video to video; its sides are multiples of 16.",
            inputs=[
                io.Image.Input("pixels", optional=True, tooltip="The frames of one video; or give a video."),
                io.Vae.Input("vae", tooltip="From CogVideoX Load VAE."),
                *_tiling_inputs(),
                *_video_inputs(),
            ],
            outputs=[io.Latent.Output(tooltip="For a sampler with denoise below 1.")],
            search_aliases=["video to video", "v2v", "vid2vid", _VIDEO_TO_VIDEO],
        )

    @classmethod
    def validate_inputs(cls, tiling: str | None) -> bool | str:
        return _tiling_fault(tiling) or True

    @classmethod
    def execute(
        cls, vae, tiling: str, pixels: torch.Tensor | None = None, video=None, model=None, **options: Any
    ) -> io.NodeOutput:
        """pixels: IMAGE [F, H, W, C] in 0 to 1; options: the other widgets."""
        vae = cogvideox_vae(vae)
        tiles = [options.pop(name, 0) for name in ("tile_width", "tile_height")]
        wanted = _wanted(**options)
        config = vae.first_stage_model.config
        if video is not None:
            variant = variant_of_vae(config) if model is None else cogvideox_model(model).variant
            frames = video_frames(video, wanted, variant)
        elif pixels is not None:
            frames = image_frames(pixels, wanted)
        else:
            raise ValueError("give either pixels or video to CogVideoX VAE Encode, one of the two")
        length, height, width = frames.shape[:3]
        if fault := size_fault(width, height, length):
            raise ValueError(f"{fault} (set width, height and length, and the frames are fitted to them)")
        frames = computed_image(frames, config)
        size = VideoSize(height, width, len(frames))
        plan = _plan(vae, "encode", size, tiling, *tiles)
        z = vae.encode(frames) if plan.tiling is None else vae.encode_blended(frames, plan.tiling)
        return io.NodeOutput(with_length(z, length))


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
        frames = frames[:, : asked_frames(samples, size.num_frames, vae.first_stage_model.config)]
        images = joined(frames)  # [B, F, H, W, C] -> IMAGE
        return io.NodeOutput(images, split(images))
