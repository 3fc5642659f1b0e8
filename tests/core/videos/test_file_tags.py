"""Tags in files of Pillow's and FFmpeg's: where ComfyUI and players look for them."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path

import av
import pytest
from PIL import Image

from cogvideox_core.videos.file_tags import COMMENT, exif, picture_tags, png_info, tag_texts, with_gif_comment

TAGS = {"prompt": {"1": {"text": "b\u00e4r"}}, "workflow": {"nodes": [], "note": "x" * 999}, "other": 2**63}


def gif(frames: int = 3, **options) -> bytes:
    pictures = [Image.new("RGB", (8, 6), (40 * index, 0, 99)) for index in range(frames)]
    file = BytesIO()
    pictures[0].save(file, "GIF", save_all=True, append_images=pictures[1:], duration=100, loop=0, **options)
    return file.getvalue()


def test_the_comment_keeps_its_letters_and_the_others_are_ascii() -> None:
    texts = tag_texts({COMMENT: {"prompt": "b\u00e4r"}, **TAGS})
    assert "b\u00e4r" in texts[COMMENT] and texts["prompt"].isascii()
    assert json.loads(texts["prompt"]) == TAGS["prompt"]


def test_a_png_has_text_chunks(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "one.png", pnginfo=png_info(TAGS))
    with Image.open(tmp_path / "one.png") as picture:
        assert {name: json.loads(text) for name, text in picture.text.items()} == TAGS
    assert picture_tags(tmp_path / "one.png") == {name: json.dumps(value) for name, value in TAGS.items()}


def test_a_webp_has_the_exif_of_comfyui(tmp_path: Path) -> None:
    """Its own node writes the prompt to tag 0x0110 and the others from 0x010F downwards."""
    Image.new("RGB", (4, 4)).save(tmp_path / "one.webp", exif=exif(TAGS))
    with Image.open(tmp_path / "one.webp") as picture:
        found = picture.getexif()
    assert found[0x0110] == "prompt:" + json.dumps(TAGS["prompt"])
    assert (found[0x010F], found[0x010E]) == ("workflow:" + json.dumps(TAGS["workflow"]), f"other:{2**63}")
    assert picture_tags(tmp_path / "one.webp") == {name: json.dumps(value) for name, value in TAGS.items()}


@pytest.mark.parametrize("optimize", [True, False])
def test_a_gif_with_a_comment_plays_as_before(tmp_path: Path, optimize: bool) -> None:
    plain = gif(optimize=optimize)
    (tmp_path / "one.gif").write_bytes(with_gif_comment(plain, {COMMENT: {"seed": 1}}))
    (tmp_path / "all.gif").write_bytes(with_gif_comment(plain, TAGS))
    with av.open(str(tmp_path / "all.gif")) as container:
        assert json.loads(container.metadata["comment"]) == TAGS
        assert len(list(container.decode(video=0))) == 3
    with Image.open(tmp_path / "one.gif") as ours, Image.open(BytesIO(plain)) as theirs:
        assert (ours.n_frames, ours.info["loop"]) == (3, 0)
        for index in range(3):
            ours.seek(index)
            theirs.seek(index)
            assert ours.convert("RGB").tobytes() == theirs.convert("RGB").tobytes()
    assert json.loads((picture_tags(tmp_path / "one.gif") or {})[COMMENT]) == {"seed": 1}


def test_other_files_are_no_pictures(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    Image.new("RGB", (4, 4)).save(tmp_path / "one.jpg")
    assert picture_tags(tmp_path / "text.png") is None and picture_tags(tmp_path / "one.jpg") is None
