"""Video and picture files, and colours of latents for previews."""
