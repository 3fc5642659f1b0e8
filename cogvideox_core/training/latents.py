"""Clips encoded once, before diffusion training: moments of the videos, and of their first and last pictures.

A bucket is a folder of shards; a shard holds what `ENTRIES` lists for `SHARD` clips. An interrupted run goes on with
the first shard that is missing.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from ..models.vae.autoencoder import AutoencoderCausal3D
from .clips import ClipSource
from .loop import noise_generator

SHARD = 250
_BATCH = 10

IMAGE_NOISE = (-3.0, 0.5)
"""Mean and deviation of the logarithm of the noise put on image conditions, in pixels of [-1, 1]."""


@dataclass(frozen=True)
class Bucket:
    """Clips of one shape, `count` of them, numbered from `first`."""

    num_frames: int
    height: int
    width: int
    count: int
    first: int = 0

    @property
    def name(self) -> str:
        return f"{self.num_frames}x{self.height}x{self.width}"


class LatentClip(NamedTuple):
    """mean and deviation [C, T, h, w] of the posterior; first, last [C, 1, h, w]: of noised pictures. Not scaled."""

    mean: Tensor
    deviation: Tensor
    first: Tensor
    last: Tensor


def encode_bucket(
    vae: AutoencoderCausal3D, clips: ClipSource, bucket: Bucket, folder: str | Path, *, seed: int = 0
) -> None:
    """Write the shards of `bucket` that are missing under `folder`.

    Raises: ValueError if the folder holds other clips of this shape, or another VAE's.
    """
    place = Path(folder) / bucket.name
    place.mkdir(parents=True, exist_ok=True)
    _check_owner(place / "bucket.json", {**asdict(bucket), "seed": seed, "vae": fingerprint(vae)})
    shards = range(math.ceil(bucket.count / SHARD))
    for shard in tqdm(shards, desc=f"encoding {bucket.name}", unit="shard"):
        path = _shard_path(place, shard)
        if path.is_file():
            continue
        indices = range(shard * SHARD, min((shard + 1) * SHARD, bucket.count))
        batches = [indices[start : start + _BATCH] for start in range(0, len(indices), _BATCH)]
        encoded = [_encode(vae, clips, bucket, batch, seed) for batch in batches]
        columns = {name: torch.cat([getattr(batch, name) for batch in encoded]).half() for name in LatentClip._fields}
        part = path.with_suffix(".part")
        save_file(columns, part)
        os.replace(part, path)


def _check_owner(path: Path, wanted: dict[str, Any]) -> None:
    held = json.loads(path.read_text()) if path.is_file() else None
    if held is None:
        path.write_text(json.dumps(wanted, indent=2) + "\n")
    elif held != wanted:
        changed = ", ".join(key for key in wanted if held.get(key) != wanted[key])
        raise ValueError(f"{path.parent} holds clips encoded otherwise (different: {changed}); name another folder")


def fingerprint(module: nn.Module) -> str:
    """A short hash of all weights."""
    state = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        state.update(name.encode())
        state.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return state.hexdigest()[:16]


@torch.no_grad()
def _encode(vae: AutoencoderCausal3D, clips: ClipSource, bucket: Bucket, batch: range, seed: int) -> LatentClip:
    device = next(vae.parameters()).device
    size = (bucket.num_frames, bucket.height, bucket.width)
    video = torch.stack([clips.video(bucket.first + index, *size) for index in batch]) * 2 - 1
    posterior = vae.encode(video.to(device))
    ends = [video[:, :, :1]] if bucket.num_frames == 1 else [video[:, :, :1], video[:, :, -1:]]
    pictures = [vae.encode(_noised(end, bucket, batch, seed).to(device)).mean.cpu() for end in ends]
    return LatentClip(posterior.mean.cpu(), posterior.logvar.mul(0.5).exp().cpu(), pictures[0], pictures[-1])


def _noised(pictures: Tensor, bucket: Bucket, batch: range, seed: int) -> Tensor:
    """Noise of a strength of its own on each picture: what keeps the model from copying it blindly."""
    mean, deviation = IMAGE_NOISE
    noised = []
    for picture, index in zip(pictures, batch, strict=True):
        generator = noise_generator(seed, bucket.first + index, bucket.num_frames)
        strength = torch.exp(mean + deviation * torch.randn((), generator=generator))
        noised.append(picture + strength * torch.randn(picture.shape, generator=generator))
    return torch.stack(noised)


class EncodedBucket:
    """Reads a bucket; the files stay on disk."""

    def __init__(self, bucket: Bucket, folder: str | Path) -> None:
        self.bucket = bucket
        place = Path(folder) / bucket.name
        shards = range(math.ceil(bucket.count / SHARD))
        self._shards = [safe_open(_shard_path(place, shard), framework="pt") for shard in shards]

    def __getitem__(self, index: int) -> LatentClip:
        shard, row = divmod(index, SHARD)
        return LatentClip(*(self._shards[shard].get_slice(name)[row].float() for name in LatentClip._fields))


def _shard_path(place: Path, shard: int) -> Path:
    return place / f"{shard:05}.safetensors"
