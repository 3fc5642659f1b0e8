"""Colours of latents: a linear map from a latent's channels to one pixel, for previews without the VAE.

`fit_latent_rgb` fits a VAE's map by least squares, and the map is stored as a small JSON file in the VAE's folder. It
applies to z in VAE space; a model's latents are z times the scaling factor, so `scaled` divides by it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..models.vae.autoencoder import AutoencoderCausal3D
from ..weights.config_json import read_json
from ..weights.diffusers_folder import pipeline_folder
from ..weights.errors import CheckpointError
from ..weights.save_diffusers import write_json

FILE_NAME = "latent_rgb.json"
# ComfyUI's names of the same numbers.
_FACTORS, _BIAS = "latent_rgb_factors", "latent_rgb_factors_bias"

RGB = tuple[float, float, float]


@dataclass(frozen=True)
class LatentRGB:
    """Red, green and blue of a latent, from -1 to 1: its channels times `factors`, plus `bias`.

    Attributes:
        factors: three numbers for each latent channel.
        bias: three numbers.
    """

    factors: tuple[RGB, ...]
    bias: RGB

    def scaled(self, scale: float) -> LatentRGB:
        """The map for latents that are `scale` times as large."""
        rows = [(red / scale, green / scale, blue / scale) for red, green, blue in self.factors]
        return LatentRGB(tuple(rows), self.bias)


# Source: the table of kijai's ComfyUI-CogVideoXWrapper (Apache-2.0, pipeline_cogvideox.py of commit fdb8abd). It is
# multiplied there with 5 times the latents, which are 0.7 z: so for z, the numbers are 3.5 times as large, rounded.
OFFICIAL_RGB = LatentRGB(
    factors=(
        (0.1119, 0.1432, 0.0055),
        (0.0193, 0.0183, -0.0196),
        (0.0044, -0.0563, 0.0876),
        (0.0616, 0.0129, -0.0021),
        (0.0016, 0.0214, 0.0030),
        (-0.0369, -0.0113, -0.0310),
        (-0.0005, 0.0357, -0.0004),
        (0.0727, -0.0058, 0.0235),
        (0.0194, 0.0341, 0.0066),
        (0.0425, 0.0864, 0.1302),
        (0.0036, 0.0694, 0.0345),
        (0.0238, -0.0037, -0.0246),
        (0.0012, 0.0187, -0.0646),
        (-0.0317, -0.0395, 0.0148),
        (0.0089, 0.0883, -0.0021),
        (-0.0390, 0.0064, 0.0978),
    ),
    bias=(-0.023, 0.0, -0.017),
)
"""The map for the VAE of the released models; docs/previews.md says how to fit one."""


def latent_rgb_of(path: str | Path) -> LatentRGB:
    """The map of a model's VAE: from `vae/latent_rgb.json` in the model's folder, else that of the released VAE.

    Args: path: a whole model folder, or anything in one of its subfolders.
    Raises: CheckpointError if the file holds no such map.
    """
    root = pipeline_folder(path)
    file = None if root is None else root / "vae" / FILE_NAME
    return OFFICIAL_RGB if file is None or not file.exists() else read_latent_rgb(file)


def read_latent_rgb(file: Path) -> LatentRGB:
    """The map in a file. Raises: CheckpointError if it holds none."""
    content = read_json(file)
    rows = content.get(_FACTORS)
    factors = [_rgb(row) for row in rows] if isinstance(rows, list) else []
    bias = _rgb(content.get(_BIAS))
    known = tuple(row for row in factors if row is not None)
    if bias is None or not known or len(known) != len(factors):
        raise CheckpointError(
            f"{file} holds no rows of three numbers as {_FACTORS}, with three more as {_BIAS}; fit it again with "
            "cogvideox fit-preview, or delete it"
        )
    return LatentRGB(known, bias)


def write_latent_rgb(rgb: LatentRGB, folder: Path, **notes: Any) -> Path:
    """Write a map into a VAE's folder, with notes such as what it was fitted to. Returns: the file."""
    file = folder / FILE_NAME
    write_json(file, {**notes, _FACTORS: [_rounded(row) for row in rgb.factors], _BIAS: _rounded(rgb.bias)})
    return file


def _rounded(row: RGB) -> list[float]:
    return [round(value, 5) for value in row]


@torch.no_grad()
def fit_latent_rgb(vae: AutoencoderCausal3D, clips: Iterable[Tensor]) -> tuple[LatentRGB, float]:
    """Fit the linear map from a VAE's latents of videos to the colours of those videos, by least squares.

    Args: clips: videos [1, 3, F, H, W] in [0, 1]; F is 8n + 1, H and W are multiples of the VAE's compression.
    Returns: the map, and R^2, the share of the colours' variance that it explains.
    Raises: ValueError if there is no clip.
    """
    latents, colours = [], []
    for clip in clips:
        video = clip * 2 - 1
        latents.append(vae.encode(video).mode()[0].flatten(1).T.double())  # [N, C]
        colours.append(_mean_colours(video, vae).flatten(1).T.double())  # [N, 3]
    if not latents:
        raise ValueError("no clip to fit the preview's colours to; give a video, or leave them out for the demo world")
    z, rgb = torch.cat(latents), torch.cat(colours)
    with_one = torch.cat([z, torch.ones_like(z[:, :1])], dim=1)
    solution = torch.linalg.lstsq(with_one, rgb).solution  # [C + 1, 3]
    error = (with_one @ solution - rgb).square().sum()
    spread = (rgb - rgb.mean(dim=0)).square().sum()
    *factors, bias = [(red, green, blue) for red, green, blue in solution.tolist()]
    return LatentRGB(tuple(factors), bias), float(1 - error / spread)


def _mean_colours(video: Tensor, vae: AutoencoderCausal3D) -> Tensor:
    """The mean colour of the pixels that each latent encodes: [1, 3, F, H, W] to [3, T, h, w].

    The first latent frame encodes the first frame alone, every other one as many frames as the VAE compresses into one.
    """
    space, time = vae.config.spatial_compression_ratio, vae.config.temporal_compression_ratio
    frames = torch.nn.functional.avg_pool2d(video[0].transpose(0, 1), space)  # [F, 3, h, w]
    groups = frames[1:].unflatten(0, (-1, time)).mean(dim=1) if len(frames) > 1 else frames[1:]
    return torch.cat([frames[:1], groups]).transpose(0, 1)


def _rgb(row: Any) -> RGB | None:
    """Three finite numbers, or None."""
    if not isinstance(row, list) or len(row) != 3:
        return None
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in row):
        return None
    red, green, blue = map(float, row)
    return red, green, blue
