"""Write the model of `cogvideox_core/demo`: a toy with random weights, small enough to travel in the repository.

It stands in for the trained demo model and takes the same path through the code: the official folder layout, the
kind of CogVideoX-5B (rotary positions, text-to-video), 96x96 pixels and 17 frames by default.

    python tests/make_demo.py
"""

from __future__ import annotations

from pathlib import Path

import torch
from checkpoints import make_checkpoint
from sentencepiece import sentencepiece_model_pb2

FOLDER = Path(__file__).resolve().parents[1] / "cogvideox_core" / "demo" / "model"
LIMIT = 1_500_000  # bytes, all files together


def make_demo(folder: Path = FOLDER) -> Path:
    """Write the demo checkpoint; the same bytes every time.

    Raises: ValueError if it has become too large for the repository.
    """
    make_checkpoint(
        folder,
        "CogVideoX-5B",
        seed=2,
        dtype=torch.bfloat16,
        transformer=dict(sample_height=12, sample_width=12, sample_frames=17, time_embed_dim=16),
        vae=dict(block_out_channels=(8, 8, 16, 16), sample_height=96, sample_width=96),
    )
    _drop_unicode_table(folder / "tokenizer" / "spiece.model")
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    if size > LIMIT:
        raise ValueError(f"The demo model takes {size:,} bytes; {LIMIT:,} may travel in the repository.")
    return folder


def _drop_unicode_table(path: Path) -> None:
    """Take the NFKC table, 240 kB of it, out of a tokenizer that knows English letters only."""
    model = sentencepiece_model_pb2.ModelProto.FromString(path.read_bytes())
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.precompiled_charsmap = b""
    path.write_bytes(model.SerializeToString())


if __name__ == "__main__":
    written = make_demo()
    print(f"demo model written to {written}")
