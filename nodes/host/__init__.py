"""CogVideoX on ComfyUI's own base classes: MODEL, VAE, CLIP and SAMPLER. The only rooms that know ComfyUI inside."""
