"""The causal 3D VAE, and how much memory it takes."""
