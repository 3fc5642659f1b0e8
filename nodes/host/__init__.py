"""Everything that knows ComfyUI beyond `comfy_api`.

`types/` holds what the nodes hand on: MODEL, VAE, CLIP, SAMPLER and the lists of files. `features/` holds what makes
them nicer and what the nodes can do without; a type never imports a feature. `player/` holds what the video player
writes and reads.
"""
