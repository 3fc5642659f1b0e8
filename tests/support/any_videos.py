"""Videos as people have them, drawn at random, and what has to come of each: its frames, or one sentence.

What is expected is computed from the pictures that were written, by Pillow and by fractions, without our reader.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cogvideox_core import load_vae
from cogvideox_core.demo import DEMO_MODEL
from tests.support.counted_videos import BLUE, MATRICES, RED, Kind, Matrix, write_pictures

COUNT = 60
BACKGROUND = (255, 255, 255)  # white, where nobody chooses another colour
MODELS_FPS = 8  # of the 1.0 models, and of the demo models
MULTIPLE = 16  # of both sides
GROUP = 8  # frames that are computed together; the last one is repeated up to there
APART = 0.01  # mean squared error of a frame at most; a bar elsewhere makes ten times as much

# Ending, encoding, whether sides may be odd, whether a header can turn the picture, whether it can be transparent.
_FILES = [
    (".mp4", Kind("libx264"), False, True, False),
    (".MP4", Kind("libx264", "yuv444p"), True, True, False),
    (".mov", Kind("qtrle", "argb"), True, True, True),
    (".mov", Kind("png", "rgba"), True, True, True),
    (".mkv", Kind("ffv1", "bgra"), True, False, True),
    (".webm", Kind("libvpx-vp9"), False, False, False),
    (".mkv", Kind("libx265", "yuv420p10le", {"x265-params": "log-level=none"}), False, False, False),
]
_RATES = [Fraction(8), Fraction(16), Fraction(24), Fraction(25), Fraction(30), Fraction(30000, 1001), Fraction(60)]


@dataclass(frozen=True)
class Drawn:
    """A video file, and what is asked of it.

    Attributes:
        size: width and height of the pictures as they are looked at.
        width, height, length: that are asked for; 0 where nothing is.
        rate: "model", "every", or frames per second as text.
    """

    ending: str
    kind: Kind
    size: tuple[int, int]
    count: int
    fps: Fraction
    matrix: Matrix
    alpha: bool
    width: int
    height: int
    length: int
    rate: str
    fit: str

    def write(self, path: Path) -> Path:
        """The file, whose pictures lie as the header says that they are to be turned."""
        laid = [_laid(pixels, self.matrix) for pixels in self.pictures()]
        return write_pictures(path.with_suffix(self.ending), laid, float(self.fps), kind=self.kind, matrix=self.matrix)

    def pictures(self) -> list[np.ndarray]:
        """All of them upright: [H, W, 3], or 4 with a transparent strip below."""
        places = [(number + 0.5) / self.count for number in range(self.count)]
        return [_with_hole(_picture(place, *self.size), self.alpha) for place in places]

    def taken(self, most: int) -> list[int]:
        """The numbers of the frames that are taken: those shown at the times of the rate, `most` at most."""
        if self.rate == "every":
            return list(range(self.count))[:most]
        fps = Fraction(MODELS_FPS if self.rate == "model" else self.rate)
        numbers = [int(i * self.fps / fps) for i in range(1000)]
        shown = [number for number in numbers if number < self.count]
        ends_on_a_time = (len(shown) * self.fps / fps) == self.count and (not shown or shown[-1] != self.count - 1)
        return [*shown, *([self.count - 1] if ends_on_a_time else [])][:most]

    def faults(self, width: int, height: int) -> list[str]:
        """Parts of the sentences that are due for a video of this size, any of which may come; none if it is right."""
        there = len(self.taken(self.length))
        due = {
            "another aspect ratio": self.fit == "refuse" and self.size[0] * height != self.size[1] * width,
            "multiples of 16": width % MULTIPLE or height % MULTIPLE,
            f"at most (--frames )?{there}\\b": there < self.length,
        }
        return [sentence for sentence, is_due in due.items() if is_due]

    def expected(self, number: int, width: int, height: int) -> np.ndarray:
        """The picture of that number in the size of the video, [H, W, 3] in 8 bits, as Pillow makes it."""
        pixels = self.pictures()[number]
        image = Image.fromarray(pixels)
        if pixels.shape[2] == 4:
            image = Image.alpha_composite(Image.new("RGBA", image.size, (*BACKGROUND, 255)), image).convert("RGB")
        box = None
        if self.fit == "crop":
            wide, high = self.size
            kept = (min(wide, high * width / height), min(high, wide * height / width))
            left, top = (wide - kept[0]) / 2, (high - kept[1]) / 2
            box = (left, top, left + kept[0], top + kept[1])
        return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC, box=box))


def drawn(seed: int) -> Drawn:
    """The video of this number."""
    chance = random.Random(seed)
    ending, kind, odd, turns, alpha = chance.choice(_FILES)
    step = 1 if odd else 2
    size = (chance.randrange(48, 200, step), chance.randrange(48, 200, step))
    asks_size = chance.random() < 0.8
    sides = [chance.choice([64, 96, 112, 128, chance.randrange(60, 130)]) if asks_size else 0 for _ in range(2)]
    return Drawn(
        ending,
        kind,
        size,
        chance.choice([1, 2, 5, 9, 17, 24, 33, 50]),
        chance.choice(_RATES),
        chance.choice(list(MATRICES.values())) if turns else MATRICES["upright"],
        alpha and chance.random() < 0.5,
        *sides,
        length=chance.choice([0, 0, 1, 4, 5, 9, 12, 17]),
        rate=chance.choice(["model", "model", "every", "8", "16"]),
        fit=chance.choice(["crop", "crop", "stretch", "refuse"]),
    )


@torch.no_grad()
def assert_shows(frames: Tensor, video: Drawn, numbers: list[int]) -> None:
    """That frames [1, 3, F, H, W] in [0, 1] are those pictures, as they come out of the demo model's autoencoder."""
    height, width = frames.shape[3:]
    assert frames.shape[2] == len(numbers), f"{frames.shape[2]} frames, not {len(numbers)}"
    whole = [*numbers, *numbers[-1:] * (-(len(numbers) - 1) % GROUP)]
    pictures = np.stack([video.expected(number, width, height) for number in whole])
    clip = torch.from_numpy(pictures).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    vae = load_vae(DEMO_MODEL, dtype=torch.float32)
    expected = (vae.decode(vae.encode(clip).mean) + 1) / 2
    errors = (frames - expected[:, :, : len(numbers)].clamp(0, 1)).square().mean((0, 1, 3, 4))
    assert errors.max() < APART, (
        f"frame {int(errors.argmax())} is not picture {numbers[int(errors.argmax())]}: {errors}"
    )


def _picture(place: float, width: int, height: int) -> np.ndarray:
    """[H, W, 3]: red above, blue below, a grey quarter on the left above, and a white bar that is at `place` of the
    width; so it moves from left to right, as a model's autoencoder knows it."""
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[: height // 2], pixels[height // 2 :] = RED, BLUE
    pixels[: height // 2, : width // 4] = 90
    reach = max(4, width // 8)
    left = round(place * width)
    pixels[:, max(0, left - reach) : left + reach] = 245
    return pixels


def _with_hole(pixels: np.ndarray, alpha: bool) -> np.ndarray:
    """The lower quarter transparent."""
    if not alpha:
        return pixels
    opacity = np.full((*pixels.shape[:2], 1), 255, np.uint8)
    opacity[len(pixels) * 3 // 4 :] = 0
    return np.concatenate([pixels, opacity], axis=2)


def _laid(pixels: np.ndarray, matrix: Matrix) -> np.ndarray:
    """A picture so that the matrix makes it upright again: row and column are looked up where they will go."""
    a, b, c, d = matrix
    height, width = pixels.shape[:2]
    rows, columns = np.indices((width, height) if b or c else (height, width))
    x, y = a * columns + c * rows, b * columns + d * rows
    return np.ascontiguousarray(pixels[y - y.min(), x - x.min()])
