"""Files of a video player: the mp4 that carries its workflow, and what it is compared with."""

from __future__ import annotations

import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import folder_paths
from comfy.cli_args import args
from comfy_api.latest import InputImpl, Types, io, ui
from PIL import Image
from torch import Tensor

REFERENCE_PREFIX = "CogVideoX/reference"
SOUND_CHANNELS = (1, 2, 6)  # what ComfyUI's own writer has a layout for


def encodable(images: Tensor, rate: Fraction, audio: Any = None) -> Any:
    """Frames [F, H, W, 3] as ComfyUI's VIDEO, with sound if there is some; sound longer than the frames is cut.

    Raises: ValueError for odd sizes, or sound with other than 1, 2 or 6 channels.
    """
    height, width = images.shape[1:3]
    if height % 2 or width % 2:
        fits = f"{width // 2 * 2}x{height // 2 * 2}"
        raise ValueError(f"frames of {width}x{height}; an mp4 takes even sizes; crop or resize them to {fits}")
    if has_sound(audio):
        channels = audio["waveform"].shape[1]
        if channels not in SOUND_CHANNELS:
            raise ValueError(f"audio of {channels} channels; an mp4 takes 1, 2 or 6; mix it down to 2")
    else:
        audio = None
    return InputImpl.VideoFromComponents(Types.VideoComponents(images=images, audio=audio, frame_rate=rate))


def has_sound(audio: Any) -> bool:
    """Whether an AUDIO holds a sample at all; a video without sound may give an empty one."""
    return audio is not None and audio["waveform"].shape[-1] > 0


def save_video(video: Any, prefix: str, keep: bool, hidden: Any) -> ui.SavedResult:
    """Write a VIDEO as mp4 with its `workflow` and `prompt`, below the output folder or (`keep` off) the temporary one.

    Raises: OSError in one sentence; nothing is left behind then.
    """

    def write(path: Path) -> None:
        video.save_to(str(path), format=Types.VideoContainer.MP4, codec=Types.VideoCodec.H264, metadata=_tags(hidden))

    width, height = video.get_dimensions()
    return _save(write, ".mp4", prefix, width, height, io.FolderType.output if keep else io.FolderType.temp)


def save_reference(frames: Tensor, rate: Fraction) -> ui.SavedResult:
    """Write what a video is compared with, [R, H, W, 3], as a temporary file: one frame as png, more as mp4."""
    height, width = frames.shape[1:3]
    if len(frames) > 1:
        video = encodable(frames, rate)

        def write(path: Path) -> None:
            video.save_to(str(path), format=Types.VideoContainer.MP4, codec=Types.VideoCodec.H264)
    else:

        def write(path: Path) -> None:
            pixels = (frames[0, ..., :3] * 255).round().clamp(0, 255).byte().cpu().numpy()
            Image.fromarray(pixels).save(path, compress_level=1)

    suffix = ".mp4" if len(frames) > 1 else ".png"
    return _save(write, suffix, REFERENCE_PREFIX, width, height, io.FolderType.temp)


def remove(saved: ui.SavedResult) -> None:
    """Delete a file that was saved."""
    root = folder_paths.get_directory_by_type(saved.type.value)
    assert root is not None
    Path(root, saved.subfolder, saved.filename).unlink(missing_ok=True)


def _save(
    write: Callable[[Path], None], suffix: str, prefix: str, width: int, height: int, folder_type: io.FolderType
) -> ui.SavedResult:
    """Write under a temporary name, then rename: a failure leaves no half file."""
    root = folder_paths.get_directory_by_type(folder_type.value)
    assert root is not None
    try:
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(prefix, root, width, height)
    except OSError as error:
        raise OSError(
            f"no folder for {prefix!r} in {root}: {error.strerror}; choose another filename_prefix"
        ) from error
    target = Path(folder) / f"{name}_{counter:05}_{suffix}"
    unfinished = target.with_name(f".{target.stem}.unfinished{suffix}")
    try:
        write(unfinished)
        os.replace(unfinished, target)
    except OSError as error:
        raise OSError(f"{target} could not be written: {error.strerror or error}; nothing was left behind") from error
    finally:
        unfinished.unlink(missing_ok=True)
    return ui.SavedResult(target.name, subfolder, folder_type)


def _tags(hidden: Any) -> dict | None:
    """The workflow and prompt that made the video, unless the server was started with --disable-metadata."""
    if args.disable_metadata:
        return None
    return {**(hidden.extra_pnginfo or {}), "prompt": hidden.prompt} if hidden.prompt is not None else None
