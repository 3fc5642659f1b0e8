"""The finished video: saved, shown and handed on."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import folder_paths
import torch
from comfy.cli_args import args
from comfy_api.latest import InputImpl, Types, io, ui


class CogVideoXVideoPlayer(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CogVideoXVideoPlayer",
            display_name="CogVideoX Video Player",
            category="CogVideoX/video",
            description="Plays the frames as a video and saves it as an mp4 that carries its workflow.",
            inputs=[
                io.Image.Input("images", optional=True, tooltip="The frames; or give a video."),
                io.Video.Input("video", optional=True, tooltip="A video in place of frames; keeps its own fps."),
                io.Float.Input(
                    "fps",
                    default=8.0,
                    min=1.0,
                    max=120.0,
                    step=1.0,
                    tooltip="Frames per second: 8 for the 1.0 models, 16 for 1.5.",
                ),
                io.String.Input(
                    "filename_prefix", default="CogVideoX/video", tooltip="Folder and name below the output folder."
                ),
                io.Boolean.Input("save_output", default=True, tooltip="Off: a temporary file, for looking at it only."),
            ],
            outputs=[
                io.Video.Output(tooltip="The video, for ComfyUI's video nodes."),
                io.Image.Output(tooltip="Its frames."),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
            search_aliases=["save video", "preview video", "mp4"],
        )

    @classmethod
    def execute(
        cls,
        fps: float,
        filename_prefix: str,
        save_output: bool,
        images: torch.Tensor | None = None,
        video=None,
    ) -> io.NodeOutput:
        if (images is None) == (video is None):
            raise ValueError("give either images or video to CogVideoX Video Player, one of the two")
        if video is None:
            rate = Fraction(fps).limit_denominator(1000)
            video = InputImpl.VideoFromComponents(Types.VideoComponents(images=images, frame_rate=rate))
        saved = _save(video, filename_prefix, save_output, cls.hidden)
        frames = video.get_components().images if images is None else images
        return io.NodeOutput(video, frames, ui=ui.PreviewVideo([saved]))


def _save(video, prefix: str, keep: bool, hidden) -> ui.SavedResult:
    """Write the mp4 under a temporary name, then rename it: a failure leaves no half file."""
    root = folder_paths.get_output_directory() if keep else folder_paths.get_temp_directory()
    width, height = video.get_dimensions()
    try:
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(prefix, root, width, height)
    except OSError as error:
        raise OSError(
            f"no folder for {prefix!r} in {root}: {error.strerror}; choose another filename_prefix"
        ) from error
    target = Path(folder) / f"{name}_{counter:05}_.mp4"
    unfinished = target.with_name(f".{target.stem}.unfinished.mp4")
    try:
        video.save_to(
            str(unfinished), format=Types.VideoContainer.MP4, codec=Types.VideoCodec.H264, metadata=_metadata(hidden)
        )
        os.replace(unfinished, target)
    except OSError as error:
        raise OSError(f"{target} could not be written: {error.strerror or error}; nothing was left behind") from error
    finally:
        unfinished.unlink(missing_ok=True)
    return ui.SavedResult(target.name, subfolder, io.FolderType.output if keep else io.FolderType.temp)


def _metadata(hidden) -> dict | None:
    """The workflow and prompt that made the video, unless the server was told to leave them out."""
    if args.disable_metadata:
        return None
    return {**(hidden.extra_pnginfo or {}), "prompt": hidden.prompt} if hidden.prompt is not None else None
