"""The diffusion transformer: its blocks, positions, attention backends and ways to run it faster."""
