"""From noise to clean latents: noise schedule, samplers, guidance, the denoising loop, and what may be approximated."""
