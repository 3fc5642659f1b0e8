"""Names inside transformers and diffusers that the core uses and that their documentation does not promise.

tests/core/models/test_library_symbols.py names each that is gone. Those of PyTorch are in kernels/torch_symbols.py.
"""

from __future__ import annotations

TRANSFORMERS: dict[str, str] = {
    "shared.weight": "the embedding under its published key; dtype and device of a text encoder are its",
    "encoder.embed_tokens.weight": "the same tensor under the key of files that leave `shared` out",
    "encoder.set_input_embeddings": "makes both one tensor again after weights were put in place (weights/t5.py)",
    "encoder.block": "the blocks, which low memory streams one by one (pipeline/offload.py)",
    "encoder.block.0.layer.0.SelfAttention.q.weight": "sizes of a T5 are read from its keys (weights/t5.py)",
    "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": "as above",
    "encoder.block.0.layer.1.DenseReluDense.wi_0.weight": "as above",
    "encoder.block.0.layer.1.DenseReluDense.wo.weight": "stays in float32 where the others are float16 (weights/t5.py)",
    "config.d_model": "the width of an embedding (models/text_encoder.py)",
}
"""Attributes of a T5EncoderModel whose feed-forward layers are gated."""

DIFFUSERS: dict[str, str] = {
    "optimization.get_scheduler": "the learning rate's schedule (training)",
    "training_utils.EMAModel": "the moving average of weights (training)",
}
"""Names inside the package."""
