"""Files of a video player: the clips, with the workflow that made them, and what they are compared with."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import folder_paths
from comfy.cli_args import args
from comfy_api.latest import InputImpl, Types, io, ui
from torch import Tensor
from torch.nn import functional

from ....cogvideox_core.videos.film_writers import DEFAULT_CRF, SOUND_CHANNELS, Sound
from ....cogvideox_core.videos.video_files import FORMATS, Encoding, write_errors, write_frames

logger = logging.getLogger("cogvideox")

CHOICES = {
    ending[1:] if codec in (None, *kind.codecs[:1]) else f"{ending[1:]}-{codec}": (ending, codec)
    for ending, kind in FORMATS.items()
    for codec in (kind.codecs or (None,))
}
"""The formats, as the node names them (mp4, webm, webm-av1, ...), each with the ending of its files and its codec."""

REFERENCE_PREFIX, SHOWN_PREFIX = "CogVideoX/reference", "CogVideoX/shown"
_PLAYED = (".mp4", ".webm")  # what a page plays and can show any frame of
_EIGHT_BITS = 8
_DIGITS = 5  # of the number in the name of a picture


class Clip(NamedTuple):
    """Frames [F, H, W, C] in 0 to 1, their rate, and AUDIO. `video`: the VIDEO they are of, if they are all of it."""

    frames: Tensor
    rate: Fraction
    sound: Any = None
    video: Any = None


@dataclass(frozen=True)
class Saving:
    """How files are written.

    Attributes:
        prefix: folder and name below the output folder.
        keep: off: below the temporary folder.
        format: one of `CHOICES`.
        crf: quality of mp4 and webm.
        tags: what the file says about itself.
    """

    prefix: str
    keep: bool = False
    format: str = "mp4"
    crf: int = DEFAULT_CRF
    tags: dict[str, Any] | None = None

    @property
    def ending(self) -> str:
        """Of the files' names."""
        return CHOICES[self.format][0]


class Saved(NamedTuple):
    """The files of a clip, one or many pictures, and the one that the player plays: the same, or an mp4 of it."""

    files: list[ui.SavedResult]
    shown: ui.SavedResult


def check_clip(clip: Clip, format: str) -> None:
    """Raises: ValueError for odd sizes, or sound with other than 1, 2 or 6 channels, where the format takes none."""
    height, width = clip.frames.shape[1:3]
    kind = FORMATS[CHOICES[format][0]]
    if kind.even and clip.video is None and (height % 2 or width % 2):
        raise ValueError(
            f"frames of {width}x{height}; {kind.name} takes even sizes; crop or resize them to "
            f"{width // 2 * 2}x{height // 2 * 2}, or save them as gif, webp or png"
        )
    if clip.sound is not None and clip.video is None:
        channels = clip.sound["waveform"].shape[1]
        if channels not in SOUND_CHANNELS:
            raise ValueError(f"audio of {channels} channels; an mp4 takes 1, 2 or 6; mix it down to 2")
        if not kind.sound:
            logger.warning("%s has no sound, so the file is written without; the player has it", kind.name)


def as_video(clip: Clip) -> Any:
    """A clip as ComfyUI's VIDEO."""
    if clip.video is not None:
        return clip.video
    parts = Types.VideoComponents(images=clip.frames, audio=clip.sound, frame_rate=clip.rate)
    return InputImpl.VideoFromComponents(parts)


def has_sound(audio: Any) -> bool:
    """Whether an AUDIO holds a sample at all; a video without sound may give an empty one."""
    return audio is not None and audio["waveform"].shape[-1] > 0


def save_clip(clip: Clip, saving: Saving) -> Saved:
    """Write a clip. A VIDEO whose file is as the format has it, or of more than 8 bits, keeps its own encoding.

    Raises: OSError in one sentence; nothing is left behind then.
    """
    if (
        saving.format == "mp4"
        and clip.video is not None
        and (options := _own_encoding(clip.video, saving.crf)) is not None
    ):
        files = _save(lambda path: _hand_on(clip.video, path, saving.tags, options), clip, saving)
    else:
        files = _save(lambda path: _encode(clip, path, saving), clip, saving)
    if saving.ending in _PLAYED:
        return Saved(files, files[0])
    shown = clip._replace(frames=_even(clip.frames))
    try:
        (played,) = _save(lambda path: _encode(shown, path, _TEMPORARY), shown, _TEMPORARY)
    except BaseException:
        remove(files)
        raise
    return Saved(files, played)


def save_reference(frames: Tensor, rate: Fraction) -> ui.SavedResult:
    """Write what a video is compared with, [R, H, W, 3], as a temporary file: one frame as png, more as mp4."""
    saving = replace(_TEMPORARY, prefix=REFERENCE_PREFIX, format="mp4" if len(frames) > 1 else "png")
    clip = Clip(frames, rate)
    return _save(lambda path: _encode(clip, path, saving), clip, saving)[0]


def remove(files: list[ui.SavedResult]) -> None:
    """Delete files that were saved, and the folder that was made for pictures."""
    for saved in files:
        path = _root(saved.type) / saved.subfolder / saved.filename
        path.unlink(missing_ok=True)
        if path.suffix == ".png" and not any(path.parent.iterdir()):
            path.parent.rmdir()


def workflow_tags(hidden: Any) -> dict[str, Any]:
    """The workflow and prompt that made the video, unless the server was started with --disable-metadata."""
    if args.disable_metadata or hidden.prompt is None:
        return {}
    return {**(hidden.extra_pnginfo or {}), "prompt": hidden.prompt}


_TEMPORARY = Saving(SHOWN_PREFIX)


def _own_encoding(video: Any, crf: int) -> dict[str, Any] | None:
    """What to ask ComfyUI for where it copies a VIDEO into an mp4 as it is, or has more bits than we; else None."""
    if isinstance(video, InputImpl.VideoFromFile) and not any(video.get_active_trim_window()) and _is_h264_mp4(video):
        return {}
    return {"crf": crf} if video.get_bit_depth() > _EIGHT_BITS else None


def _is_h264_mp4(video: Any) -> bool:
    import av

    with av.open(video.get_stream_source()) as container:
        codecs = [stream.codec_context.name for stream in container.streams.video[:1]]
        return codecs == ["h264"] and "mp4" in container.format.name.split(",")


def _hand_on(video: Any, path: Path, tags: dict[str, Any] | None, options: dict[str, Any]) -> None:
    """Have ComfyUI write a VIDEO to an mp4 under a temporary name, then rename: a failure leaves no half file."""
    unfinished = path.with_name(f".{path.stem}.unfinished{path.suffix}")
    kind: dict[str, Any] = {"format": Types.VideoContainer.MP4, "codec": Types.VideoCodec.H264}
    try:
        with write_errors(path):
            video.save_to(str(unfinished), **kind, metadata=tags or None, **options)
            unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _encode(clip: Clip, path: Path, saving: Saving) -> None:
    chunks = (frame[None, :, :, :3].movedim(-1, 0)[None] for frame in clip.frames)  # [1, 3, 1, H, W] each
    sound = None if clip.sound is None else Sound(clip.sound["waveform"][0], int(clip.sound["sample_rate"]))
    encoding = Encoding(saving.crf, CHOICES[saving.format][1])
    write_frames(path, chunks, float(clip.rate), saving.tags or {}, encoding, sound)


def _even(frames: Tensor) -> Tensor:
    """Frames [F, H, W, C] of an odd size with their last row and column repeated."""
    height, width = frames.shape[1:3]
    if height % 2 == 0 and width % 2 == 0:
        return frames
    channels_first = frames.movedim(-1, 1).float()
    return functional.pad(channels_first, (0, width % 2, 0, height % 2), mode="replicate").movedim(1, -1)


def _save(write: Callable[[Path], None], clip: Clip, saving: Saving) -> list[ui.SavedResult]:
    """Write a clip to the next free name: `prefix_00001_.mp4`, or pictures to a folder of that name."""
    folder_type = io.FolderType.output if saving.keep else io.FolderType.temp
    root, (height, width) = _root(folder_type), clip.frames.shape[1:3]
    try:
        names = folder_paths.get_save_image_path(saving.prefix, str(root), width, height)
    except OSError as error:
        raise OSError(
            f"no folder for {saving.prefix!r} in {root}: {error.strerror}; choose another filename_prefix"
        ) from error
    folder, name, counter, subfolder, _ = names
    target = Path(folder) / f"{name}_{counter:05}_"
    if saving.ending != ".png":
        target = target.with_name(f"{target.name}{saving.ending}")
        write(target)
        return [ui.SavedResult(target.name, subfolder, folder_type)]
    write(target / f"%0{_DIGITS}d.png")
    inside = str(Path(subfolder) / target.name)
    return [
        ui.SavedResult(f"{number:0{_DIGITS}}.png", inside, folder_type) for number in range(1, len(clip.frames) + 1)
    ]


def _root(folder_type: io.FolderType) -> Path:
    root = folder_paths.get_directory_by_type(folder_type.value)
    assert root is not None
    return Path(root)
