"""The causal 3D VAE."""

from .autoencoder import AutoencoderCausal3D, Posterior
from .tiling import Tiling

__all__ = ["AutoencoderCausal3D", "Posterior", "Tiling"]
