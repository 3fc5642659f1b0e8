"""The finished video: saved, shown, measured and handed on."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import torch
from comfy_api.latest import io, ui

from .host.player.measurements import measure
from .host.player.prompt_settings import read_settings
from .host.player.video_file import encodable, has_sound, remove, save_video


class CogVideoXVideoPlayer(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CogVideoXVideoPlayer",
            display_name="CogVideoX Video Player",
            category="CogVideoX/video",
            description=(
                "Plays the frames as a video and saves it as an mp4 that carries its workflow. Step through it frame "
                "by frame, compare it with a reference, and see its settings."
            ),
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
                io.Image.Input(
                    "reference",
                    optional=True,
                    tooltip="What the video is compared with in the player: the start image, say, whose likeness to "
                    "the first frame is then measured; or as many frames as another video has.",
                ),
                io.Video.Input(
                    "reference_video",
                    optional=True,
                    tooltip="A video to compare with, in place of reference; shown in step with this one.",
                ),
                io.Audio.Input(
                    "audio",
                    optional=True,
                    tooltip="Sound for the mp4, in place of the video's own; cut where the frames end.",
                ),
            ],
            outputs=[
                io.Video.Output(tooltip="The video, for ComfyUI's video nodes."),
                io.Image.Output(tooltip="Its frames."),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo, io.Hidden.unique_id],
            is_output_node=True,
            search_aliases=["save video", "preview video", "mp4", "compare videos"],
        )

    @classmethod
    def execute(
        cls,
        fps: float,
        filename_prefix: str,
        save_output: bool,
        images: torch.Tensor | None = None,
        video=None,
        reference: torch.Tensor | None = None,
        reference_video=None,
        audio=None,
    ) -> io.NodeOutput:
        """images and reference: IMAGEs [F, H, W, C] in 0 to 1."""
        _check_choices(images, video, reference, reference_video)
        frames, rate, sound = _parts(images, video, fps, audio)
        if reference_video is not None:
            reference = reference_video.get_components().images
        for name, given in (("video", frames), ("reference", reference)):
            if given is not None and len(given) == 0:
                raise ValueError(f"the {name} has no frames; give at least one")
        if video is None or audio is not None:  # a video that stays as it is keeps its file's own encoding
            video = encodable(frames, rate, sound)
        about = {"has_audio": has_sound(sound), "settings": _settings(cls.hidden)}
        measured, files = measure(frames, reference, rate)
        try:
            saved = save_video(video, filename_prefix, save_output, cls.hidden)
        except BaseException:
            for file in files:
                remove(file)
            raise
        shown = ui.PreviewVideo([saved]).as_dict()
        return io.NodeOutput(video, frames, ui={**shown, "cogvideox_player": [about | measured]})


def _check_choices(images, video, reference, reference_video) -> None:
    """Raises: ValueError where two inputs say the same thing, or none says what is needed."""
    if (images is None) == (video is None):
        raise ValueError("give either images or video to CogVideoX Video Player, one of the two")
    if reference is not None and reference_video is not None:
        raise ValueError("give either reference or reference_video to CogVideoX Video Player, or neither")


def _parts(images: torch.Tensor | None, video, fps: float, audio) -> tuple[torch.Tensor, Fraction, Any]:
    """Frames [F, H, W, C] in 0 to 1, their rate and their sound, which `audio` replaces."""
    if images is not None:
        return images, Fraction(fps).limit_denominator(1000), audio
    parts = video.get_components()
    return parts.images, Fraction(parts.frame_rate), parts.audio if audio is None else audio


def _settings(hidden) -> dict[str, str]:
    return read_settings(hidden.prompt, hidden.unique_id) if hidden.prompt else {}
