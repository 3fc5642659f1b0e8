"""What one run of the player makes: the files of each clip, and what its widget shows of them."""

from __future__ import annotations

from typing import Any, NamedTuple

from comfy_api.latest import ui
from torch import Tensor

from .measurements import measure
from .video_file import Clip, Saving, check_clip, has_sound, remove, save_clip


class Result(NamedTuple):
    """A clip's files and what the widget is sent of it; `temporary`: files that only the widget needs."""

    files: list[ui.SavedResult]
    temporary: list[ui.SavedResult]
    sent: dict[str, Any]


def save_clips(clips: list[Clip], references: list[Tensor | None], saving: Saving) -> list[Result]:
    """Save and measure each clip, and what it is compared with.

    Args: references: [R, h, w, C] in 0 to 1, one for each clip.
    Raises: ValueError or OSError in one sentence; no file is left then, of no clip.
    """
    for clip in clips:
        check_clip(clip, saving.format)
    results: list[Result] = []
    try:
        for clip, reference in zip(clips, references, strict=True):
            results.append(_save_clip(clip, reference, saving))
    except BaseException:
        for result in results:
            remove([*result.files, *result.temporary])
        raise
    return results


def shown(results: list[Result], settings: dict[str, str]) -> dict[str, Any]:
    """The node's output to the page: ComfyUI's own list of files, and for our widget an entry for each clip."""
    files = [file for result in results for file in result.files]
    is_picture = files[0].filename.endswith(".png")
    own = {"images": files} if is_picture else ui.PreviewVideo(list(files)).as_dict()
    return {**own, "cogvideox_player": [{**result.sent, "settings": settings} for result in results]}


def _save_clip(clip: Clip, reference: Tensor | None, saving: Saving) -> Result:
    measured, temporary = measure(clip.frames, reference, clip.rate)
    try:
        saved = save_clip(clip, saving)
    except BaseException:
        remove(temporary)
        raise
    if saved.shown not in saved.files:
        temporary = [*temporary, saved.shown]
    files = {"file": saved.files[0], "files": len(saved.files), "shown": saved.shown}
    return Result(saved.files, temporary, {**measured, **files, "has_audio": has_sound(clip.sound)})
