"""The finished video: saved, shown, measured and handed on."""

from __future__ import annotations

from fractions import Fraction

import torch
from comfy_api.latest import io

from ..cogvideox_core.videos.film_writers import BEST_CRF, DEFAULT_CRF, WORST_CRF
from .host.player.prompt_settings import read_settings
from .host.player.results import save_clips, shown
from .host.player.video_file import CHOICES, Clip, Saving, as_video, has_sound, workflow_tags
from .host.types.clips import split

_MOST_CLIPS = 4096  # as large as ComfyUI's batch_size can be


def _shown_inputs() -> list[io.Input]:
    """What the node plays, and where it saves it."""
    return [
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
    ]


def _compared_inputs() -> list[io.Input]:
    """What goes with it."""
    return [
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
            tooltip="Sound for the mp4 or webm, in place of the video's own; cut where the frames end.",
        ),
    ]


def _file_inputs() -> list[io.Input]:
    """How it is written."""
    return [
        io.Combo.Input(
            "format",
            options=list(CHOICES),
            default="mp4",
            optional=True,
            tooltip="mp4 (H.264) plays everywhere; webm (VP9) is smaller, webm-av1 (AV1) smaller still, for newer "
            "players. gif and webp are moving pictures without sound. png: a picture of every frame, without loss, in "
            "a folder.",
        ),
        io.Int.Input(
            "crf",
            default=DEFAULT_CRF,
            min=BEST_CRF,
            max=WORST_CRF,
            optional=True,
            advanced=True,
            tooltip="Quality of mp4 and webm: 0 is best and largest, 51 smallest. 17 cannot be told from the "
            "frames by eye.",
        ),
        io.Int.Input(
            "clips",
            default=0,
            min=0,
            max=_MOST_CLIPS,
            optional=True,
            advanced=True,
            tooltip="How many clips of one length the frames are: the batch_size of the latent. 0: as many as "
            "CogVideoX VAE Decode made of it, where its frames come unchanged; else one.",
        ),
    ]


class CogVideoXVideoPlayer(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CogVideoXVideoPlayer",
            display_name="CogVideoX Video Player",
            category="CogVideoX/video",
            description=(
                "Plays the frames as a video and saves it as an mp4, or in another format, that carries its workflow; "
                "the clips of a batch as one file each. Step through it frame by frame, compare it with a reference, "
                "and see its settings."
            ),
            inputs=[*_shown_inputs(), *_compared_inputs(), *_file_inputs()],
            outputs=[
                io.Video.Output(is_output_list=True, tooltip="The video of each clip, for ComfyUI's video nodes."),
                io.Image.Output(tooltip="Its frames; of a batch, those of one clip after the other."),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo, io.Hidden.unique_id],
            is_output_node=True,
            search_aliases=["save video", "preview video", "mp4", "webm", "gif", "compare videos"],
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
        format: str = "mp4",
        crf: int = DEFAULT_CRF,
        clips: int = 0,
    ) -> io.NodeOutput:
        """images and reference: IMAGEs [F, H, W, C] in 0 to 1."""
        _check_choices(images, video, reference, reference_video)
        if reference_video is not None:
            reference = reference_video.get_components().images
        for name, given in (("video", images), ("reference", reference)):
            if given is not None and len(given) == 0:
                raise ValueError(f"the {name} has no frames; give at least one")
        parts = _clip_of(video, audio, clips) if images is None else _clips(images, fps, audio, clips)
        saving = Saving(filename_prefix, save_output, format, crf, workflow_tags(cls.hidden))
        results = save_clips(parts, _references(reference, len(parts)), saving)
        frames = parts[0].frames if images is None else images
        page = shown(results, _settings(cls.hidden))
        return io.NodeOutput([as_video(part) for part in parts], frames, ui=page)


def _check_choices(images, video, reference, reference_video) -> None:
    """Raises: ValueError where two inputs say the same thing, or none says what is needed."""
    if (images is None) == (video is None):
        raise ValueError("give either images or video to CogVideoX Video Player, one of the two")
    if reference is not None and reference_video is not None:
        raise ValueError("give either reference or reference_video to CogVideoX Video Player, or neither")


def _clips(images: torch.Tensor, fps: float, audio, clips: int) -> list[Clip]:
    """The clips of an IMAGE [B * F, H, W, C], each with the sound from its beginning."""
    rate, sound = Fraction(fps).limit_denominator(1000), audio if has_sound(audio) else None
    return [Clip(frames, rate, sound) for frames in split(images, clips)]


def _clip_of(video, audio, clips: int) -> list[Clip]:
    """A VIDEO as the one clip it is; it stays as it is unless it gets another sound."""
    if clips > 1:
        raise ValueError(f"clips={clips} for a video, which is one clip; give the frames to images, or set clips to 0")
    parts = video.get_components()
    if len(parts.images) == 0:
        raise ValueError("the video has no frames; give at least one")
    sound = parts.audio if audio is None else audio
    sound = sound if has_sound(sound) else None
    return [Clip(parts.images, Fraction(parts.frame_rate), sound, video if audio is None else None)]


def _references(reference: torch.Tensor | None, count: int) -> list[torch.Tensor | None]:
    """What each clip is compared with: the clips of a batch of as many, or all with the same."""
    references = [] if reference is None else split(reference)
    return list(references) if len(references) == count else [reference] * count


def _settings(hidden) -> dict[str, str]:
    return read_settings(hidden.prompt, hidden.unique_id) if hidden.prompt else {}
