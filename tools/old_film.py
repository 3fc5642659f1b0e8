"""The demo world as an old film, which the shipped LoRA was trained on.

    python -m tools.old_film FOLDER

writes the clips: NAME.mp4, each with a caption NAME.txt, as a folder of anybody's own videos would have them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from cogvideox_core.training.demo_world.captions import caption
from cogvideox_core.training.demo_world.world import FPS, RGB, make_scene, render
from cogvideox_core.videos.video_files import write_video

CLIPS = 240
_DARK: RGB = (26, 18, 12)
_LIGHT: RGB = (252, 232, 196)
_LUMA = (0.299, 0.587, 0.114)  # BT.601


def old_film(video: Tensor) -> Tensor:
    """A video [3, F, H, W] in [0, 1] in brown tones of the same brightness."""
    shades = [torch.tensor(values, dtype=video.dtype).view(3, 1, 1, 1) for values in (_LUMA, _DARK, _LIGHT)]
    luma, dark, light = shades[0], shades[1] / 255, shades[2] / 255
    brightness = (video * luma).sum(dim=0, keepdim=True)
    return dark + brightness * (light - dark)


def write_clips(folder: Path, count: int = CLIPS) -> None:
    """The first scenes of the demo world as old films, with captions that do not mention it."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        scene = make_scene(index)
        write_video(folder / f"{index:04}.mp4", old_film(render(scene))[None], FPS)
        (folder / f"{index:04}.txt").write_text(caption(scene, index) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser("python -m tools.old_film", description=__doc__)
    parser.add_argument("folder", type=Path, help="for the clips and their captions; made if missing")
    write_clips(parser.parse_args().folder)
