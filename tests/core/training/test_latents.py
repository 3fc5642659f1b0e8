"""Clips encoded before training: the VAE's numbers, written once, and never mixed with another VAE's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cogvideox_core import load_vae
from cogvideox_core.training import latents
from cogvideox_core.training.demo_world.world import make_scene, render
from cogvideox_core.training.demo_world.world_clips import WorldClips
from cogvideox_core.training.latents import EncodedBucket, encode_bucket, fingerprint
from cogvideox_core.training.recipe import Bucket
from tests.support.parity import assert_parity, relative_difference

BUCKET = Bucket(9, 16, 24, count=3, share=1.0, first=5)


def written(folder: Path) -> dict[Path, int]:
    """The shards under a folder, and when each was written."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}


def test_an_encoded_clip_holds_what_the_vae_makes_of_it(toy: Path, tmp_path: Path) -> None:
    vae = load_vae(toy / "vae", dtype=torch.float32)
    encode_bucket(vae, WorldClips(), BUCKET, tmp_path)
    clip = EncodedBucket(BUCKET, tmp_path)[2]
    video = render(make_scene(7), 9, 16, 24)[None] * 2 - 1
    posterior = vae.encode(video)
    assert_parity(clip.mean, posterior.mean[0], 1e-3, "the mean of an encoded clip")
    assert_parity(clip.deviation, posterior.logvar.mul(0.5).exp()[0], 1e-3, "its deviation")
    for name, frame in (("first", 0), ("last", -1)):
        alone = vae.encode(video[:, :, frame].unsqueeze(2)).mean[0]
        assert 0 < relative_difference(getattr(clip, name), alone) < 0.3, f"{name} is its picture with noise on it"


def test_clips_encoded_by_another_vae_are_refused(toy: Path, tmp_path: Path) -> None:
    vae = load_vae(toy / "vae", dtype=torch.float32)
    encode_bucket(vae, WorldClips(), BUCKET, tmp_path)
    files = written(tmp_path)
    encode_bucket(vae, WorldClips(), BUCKET, tmp_path)
    assert written(tmp_path) == files and files
    before = fingerprint(vae)
    with torch.no_grad():
        next(vae.parameters()).mul_(1.01)
    assert fingerprint(vae) != before
    with pytest.raises(ValueError, match=r"9x16x24 holds clips encoded otherwise \(different: vae\)"):
        encode_bucket(vae, WorldClips(), BUCKET, tmp_path)


def test_an_interrupted_encoding_continues_with_the_missing_shard(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latents, "SHARD", 2)
    vae = load_vae(toy / "vae", dtype=torch.float32)
    encode_bucket(vae, WorldClips(), BUCKET, tmp_path)
    whole = [EncodedBucket(BUCKET, tmp_path)[index].mean for index in range(3)]
    first, second = sorted(tmp_path.rglob("*.safetensors"))
    before = written(tmp_path)[first]
    second.unlink()
    encode_bucket(vae, WorldClips(), BUCKET, tmp_path)
    assert written(tmp_path)[first] == before
    for index, mean in enumerate(whole):
        assert torch.equal(EncodedBucket(BUCKET, tmp_path)[index].mean, mean)
