"""The causal 3D VAE."""

from .autoencoder import AutoencoderCausal3D, Posterior
from .memory import decode_memory, encode_memory
from .plan import Plan, TilingChoice, make_plan
from .tiling import Tiling

__all__ = [
    "AutoencoderCausal3D",
    "Plan",
    "Posterior",
    "Tiling",
    "TilingChoice",
    "decode_memory",
    "encode_memory",
    "make_plan",
]
