"""Clips encoded once, before diffusion training: means and deviations of videos, and their first and last pictures.

The clips of a bucket are written to a folder of shards; a shard holds the tensors of `LatentClip` for `SHARD` clips. An
interrupted encoding continues with the first shard that is missing.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from .clips import ClipSource
from .objective import seeded_generator
from .recipe import Bucket

if TYPE_CHECKING:  # the VAE is given
    from ..models.vae.autoencoder import AutoencoderCausal3D

SHARD = 250
_BATCH = 10

IMAGE_NOISE = (-3.0, 0.5)
"""Mean and deviation of the logarithm of the noise put on image conditions, in pixels of [-1, 1]."""


class LatentClip(NamedTuple):
    """An encoded clip in VAE space (not scaled).

    mean, deviation: [C, T, h, w], of the posterior. first, last: [C, 1, h, w], of the pictures with noise on them.
    """

    mean: Tensor
    deviation: Tensor
    first: Tensor
    last: Tensor


def encode_bucket(
    vae: AutoencoderCausal3D, clips: ClipSource, bucket: Bucket, folder: str | Path, *, seed: int = 0
) -> None:
    """Write the shards of `bucket` that are missing under `folder`.

    Raises: ValueError if the folder holds other clips of this size, or another VAE's.
    """
    shards_folder = Path(folder) / bucket.name
    shards_folder.mkdir(parents=True, exist_ok=True)
    content = {name: getattr(bucket, name) for name in ("num_frames", "height", "width", "count", "first")}
    _check_owner(shards_folder / "bucket.json", {**content, "seed": seed, "vae": fingerprint(vae), **clips.settings})
    shards = range(math.ceil(bucket.count / SHARD))
    for shard in tqdm(shards, desc=f"encoding {bucket.name}", unit="shard"):
        path = _shard_path(shards_folder, shard)
        if path.is_file():
            continue
        indices = range(shard * SHARD, min((shard + 1) * SHARD, bucket.count))
        batches = [indices[start : start + _BATCH] for start in range(0, len(indices), _BATCH)]
        encoded = [_encode(vae, clips, bucket, batch, seed) for batch in batches]
        columns = LatentClip(*(torch.cat(parts).half() for parts in zip(*encoded, strict=True)))
        unfinished = path.with_suffix(".part")
        save_file(columns._asdict(), unfinished)
        os.replace(unfinished, path)


def _check_owner(path: Path, wanted: dict[str, Any]) -> None:
    """Write what the folder is for; or compare, if that has been done before."""
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
    """The clips of `batch`, stacked: each tensor of `LatentClip` with a dimension B in front."""
    device = next(vae.parameters()).device
    size = (bucket.num_frames, bucket.height, bucket.width)
    video = torch.stack([clips.video(bucket.first + index, *size) for index in batch]) * 2 - 1
    posterior = vae.encode(video.to(device))
    ends = [video[:, :, :1]] if bucket.num_frames == 1 else [video[:, :, :1], video[:, :, -1:]]
    pictures = [vae.encode(_noised(end, bucket, batch, seed).to(device)).mean.cpu() for end in ends]
    return LatentClip(posterior.mean.cpu(), posterior.logvar.mul(0.5).exp().cpu(), pictures[0], pictures[-1])


def _noised(pictures: Tensor, bucket: Bucket, batch: range, seed: int) -> Tensor:
    """[B, 3, 1, H, W] with noise of a random strength on each picture, which keeps the model from copying it."""
    mean, deviation = IMAGE_NOISE
    noised = []
    for picture, index in zip(pictures, batch, strict=True):
        generator = seeded_generator(seed, bucket.first + index, bucket.num_frames)
        strength = torch.exp(mean + deviation * torch.randn((), generator=generator))
        noised.append(picture + strength * torch.randn(picture.shape, generator=generator))
    return torch.stack(noised)


class EncodedBucket:
    """Reads the encoded clips of a bucket, each from disk when it is asked for."""

    def __init__(self, bucket: Bucket, folder: str | Path) -> None:
        self.bucket = bucket
        shards = range(math.ceil(bucket.count / SHARD))
        self._shards = [safe_open(_shard_path(Path(folder) / bucket.name, shard), framework="pt") for shard in shards]

    def __getitem__(self, index: int) -> LatentClip:
        shard, row = divmod(index, SHARD)
        return LatentClip(*(self._shards[shard].get_slice(name)[row].float() for name in LatentClip._fields))


@dataclass(frozen=True)
class EncodedClips:
    """What a diffusion stage trains on: encoded clips in buckets, and their captions and answers by number.

    `scale` and `image_scale`: factors from z to latents, and to image latents.
    """

    source: ClipSource
    buckets: tuple[EncodedBucket, ...]
    scale: float
    image_scale: float


def _shard_path(folder: Path, shard: int) -> Path:
    return folder / f"{shard:05}.safetensors"
