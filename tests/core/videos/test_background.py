"""Transparent pictures on a colour, against Pillow's own compositing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cogvideox_core.videos.background import opaque_image, opaque_pixels, parse_colour

COLOURS = {"white": (255, 255, 255), "#ff8000": (255, 128, 0), "rgb(1, 2, 3)": (1, 2, 3), "#0f0": (0, 255, 0)}


@pytest.mark.parametrize("text", COLOURS)
def test_colours_are_read_as_css_writes_them(text: str) -> None:
    assert parse_colour(text) == COLOURS[text]


@pytest.mark.parametrize("text", ["purpel", "", "#12345", "255, 0, 0"])
def test_what_is_no_colour_is_told(text: str) -> None:
    told = f"background={text!r}; a colour is a name such as white, or #rrggbb"
    with pytest.raises(ValueError, match=f"^{told.replace('(', '.')}$"):
        parse_colour(text)


def see_through() -> Image.Image:
    """A red picture whose left half is transparent, and half transparent in the middle."""
    pixels = np.zeros((8, 16, 4), np.uint8)
    pixels[..., 0], pixels[:, :, 3] = 200, np.repeat([0, 128, 255], [6, 4, 6])
    return Image.fromarray(pixels, "RGBA")


@pytest.mark.parametrize("background", COLOURS)
def test_what_is_transparent_shows_the_background(background: str) -> None:
    image = see_through()
    wanted = Image.new("RGB", image.size, COLOURS[background])
    wanted.paste(image.convert("RGB"), mask=image.getchannel("A"))
    found = opaque_image(image, background)
    assert (found.mode, found.size) == ("RGB", image.size)
    assert np.abs(np.asarray(found).astype(int) - np.asarray(wanted)).max() <= 1
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
    levels = opaque_pixels(pixels, background) * 255
    assert (levels - torch.from_numpy(np.array(wanted)).permute(2, 0, 1)).abs().max() < 1


def test_pictures_without_alpha_pass_through() -> None:
    pixels = torch.rand(2, 3, 4, 5)
    assert opaque_pixels(pixels) is pixels


def saved(image: Image.Image, path: Path, **options: object) -> Image.Image:
    image.save(path, **options)
    return Image.open(path)


def test_every_way_to_be_transparent_is_seen(tmp_path: Path) -> None:
    whole = see_through()
    palette = Image.frombytes("P", (16, 8), bytes([3, *(128 * [1, 2])[1:128]]))
    palette.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0, 90, 90, 90])
    grey = Image.new("LA", (16, 8), (90, 0))
    red = Image.new("RGB", (16, 8), (200, 0, 0))
    for image in (
        saved(whole, tmp_path / "rgba.png"),
        saved(whole, tmp_path / "lossless.webp", lossless=True),
        saved(palette, tmp_path / "one_colour.png", transparency=3),
        saved(palette, tmp_path / "palette.gif", transparency=3),
        saved(red, tmp_path / "key.png", transparency=(200, 0, 0)),
        saved(grey, tmp_path / "grey.png"),
        grey,
        whole.convert("RGBa"),
    ):
        assert np.asarray(opaque_image(image, "#0000ff"))[0, 0].tolist() == [0, 0, 255], (image.mode, image.info)


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
def test_sixteen_bits_are_not_cut_off(mode: str) -> None:
    grey = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(4, 0)
    raw = grey.astype(">u2" if mode == "I;16B" else "<i4" if mode == "I" else "<u2").tobytes()
    image = Image.frombytes(mode, (256, 4), raw)
    assert np.array_equal(np.asarray(opaque_image(image))[0, :, 1], np.arange(256))


def test_a_grey_png_of_sixteen_bits_is_read(tmp_path: Path) -> None:
    grey = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(4, 0)
    Image.fromarray(grey).save(tmp_path / "deep.png")
    with Image.open(tmp_path / "deep.png") as image:
        assert image.mode != "L"
        assert np.array_equal(np.asarray(opaque_image(image))[0, :, 0], np.arange(256))
