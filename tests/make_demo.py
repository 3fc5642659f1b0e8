"""Write the models of `cogvideox_core/demo`: toys with random weights, small enough to travel in the repository.

They stand in for the trained demo models and take the same path through the code: the official folder layout, the kinds
of CogVideoX-5B and CogVideoX-5B-I2V, 96x96 pixels and 17 frames. Both have the same VAE and text encoder.

    python tests/make_demo.py
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from checkpoints import make_checkpoint
from sentencepiece import sentencepiece_model_pb2

FOLDER = Path(__file__).resolve().parents[1] / "cogvideox_core" / "demo"
KINDS = {"text-to-video": "CogVideoX-5B", "image-to-video": "CogVideoX-5B-I2V"}
LIMIT = 3_200_000  # bytes, all files together


def make_demo(folder: Path = FOLDER) -> Path:
    """Write the demo checkpoints; the same bytes every time.

    Raises: ValueError if they have become too large for the repository.
    """
    for task, kind in KINDS.items():
        make_checkpoint(
            folder / task,
            kind,
            seed=2,
            dtype=torch.bfloat16,
            transformer=dict(sample_height=12, sample_width=12, sample_frames=17, time_embed_dim=16),
            vae=dict(block_out_channels=(8, 8, 16, 16), sample_height=96, sample_width=96),
        )
        _drop_unicode_table(folder / task / "tokenizer" / "spiece.model")
    first, *others = (folder / task for task in KINDS)
    for other in others:
        for component in ("vae", "text_encoder", "tokenizer"):
            shutil.copytree(first / component, other / component, dirs_exist_ok=True)
    size = sum(file.stat().st_size for task in KINDS for file in (folder / task).rglob("*") if file.is_file())
    if size > LIMIT:
        raise ValueError(f"The demo models take {size:,} bytes; {LIMIT:,} may travel in the repository.")
    return folder


def _drop_unicode_table(path: Path) -> None:
    """Take the NFKC table, 240 kB of it, out of a tokenizer that knows English letters only."""
    model = sentencepiece_model_pb2.ModelProto.FromString(path.read_bytes())
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.precompiled_charsmap = b""
    path.write_bytes(model.SerializeToString())


if __name__ == "__main__":
    written = make_demo()
    print(f"demo models written to {written}")
