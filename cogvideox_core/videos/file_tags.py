"""What a video or picture file says about itself: texts by name, as ComfyUI writes and reads them.

A value is JSON. Players show `comment`; ComfyUI opens the workflow of a file that has `workflow` and `prompt`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Exif
    from PIL.PngImagePlugin import PngInfo

Tags = Mapping[str, Any]

COMMENT = "comment"
# Tags of EXIF that hold `name:JSON`: ComfyUI has the prompt in Model, and all else from Make downwards.
_EXIF_PROMPT, _EXIF_OTHERS = 0x0110, 0x010F
_GIF_COMMENT, _GIF_BLOCK = b"\x21\xfe", 255  # how a comment begins, and the largest part of one
_GIF_HEADER, _GIF_FLAGS = 13, 10  # bytes of header and screen; the byte among them that says whether colours follow


def tag_texts(tags: Tags) -> dict[str, str]:
    """Tags for an mp4 or webm. The comment keeps its letters, for people; the others are ASCII, for programs."""
    return {name: json.dumps(value, ensure_ascii=name != COMMENT) for name, value in tags.items()}


def png_info(tags: Tags) -> PngInfo:
    """Tags as the text chunks of a PNG."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for name, value in tags.items():
        info.add_text(name, json.dumps(value))
    return info


def exif(tags: Tags) -> Exif:
    """Tags for a WebP."""
    from PIL.Image import Exif

    made = Exif()
    others = iter(range(_EXIF_OTHERS, 0, -1))
    for name, value in tags.items():
        made[_EXIF_PROMPT if name == "prompt" else next(others)] = f"{name}:{json.dumps(value)}"
    return made


def with_gif_comment(gif: bytes, tags: Tags) -> bytes:
    """A GIF with a comment in front of its frames: the value of `comment` where that is the only tag, else all tags."""
    text = json.dumps(tags[COMMENT] if list(tags) == [COMMENT] else dict(tags)).encode()
    parts = (text[start : start + _GIF_BLOCK] for start in range(0, len(text), _GIF_BLOCK))
    comment = _GIF_COMMENT + b"".join(bytes([len(part)]) + part for part in parts) + b"\0"
    flags = gif[_GIF_FLAGS]
    begin = _GIF_HEADER + (3 << (flags & 7) + 1 if flags & 0x80 else 0)  # behind the colours that all frames share
    return gif[:begin] + comment + gif[begin:]


def picture_tags(path: Path) -> dict[str, str] | None:
    """The texts of a PNG, WebP or GIF by name; None for any other file."""
    from PIL import Image

    try:
        with Image.open(path, formats=("PNG", "WEBP", "GIF")) as picture:
            if picture.format == "WEBP":
                return dict(_exif_texts(picture.getexif()))
            info = picture.info.items()
    except (OSError, SyntaxError, ValueError):  # what Pillow raises for other files, and for broken ones
        return None
    return {str(name): text.decode(errors="replace") if isinstance(text, bytes) else str(text) for name, text in info}


def _exif_texts(made: Exif) -> Iterator[tuple[str, str]]:
    for text in made.values():
        name, colon, value = text.partition(":") if isinstance(text, str) else ("", "", "")
        if colon:
            yield name, value
