"""CogVideoX in plain PyTorch: text and image to video, without ComfyUI.

Letters in shapes: B batch, F pixel frames, T latent frames, C channels, H W rows and columns (h w of latents), L text
tokens, N video tokens, D width of a token. Layout everywhere: [B, C, T, H, W]. `latents` are in model space (times
the VAE's scaling factor), `z` in VAE space. Video is [B, 3, F, H, W], in [-1, 1] at the VAE, in [0, 1] for people.
"""

from .conditioning import image_latent_factor, image_latents
from .config import ScheduleConfig, TransformerConfig, VAEConfig
from .load import load_pipeline
from .lora import LoRA, load_lora
from .pipeline import CogVideoXPipeline, Progress
from .request import Request
from .schedulers import NoiseSchedule, make_sampler
from .shapes import LatentSize, VideoSize, check_size, default_size, latent_size
from .text_encoder import load_text_encoder
from .transformer import CogVideoXTransformer3D
from .vae import AutoencoderCausal3D, Tiling, decode_memory, encode_memory
from .variants import VARIANTS, Variant
from .weights import CheckpointError, load_transformer, load_vae

__version__ = "0.1.0"

__all__ = [
    "VARIANTS",
    "AutoencoderCausal3D",
    "CheckpointError",
    "CogVideoXPipeline",
    "CogVideoXTransformer3D",
    "LatentSize",
    "LoRA",
    "NoiseSchedule",
    "Progress",
    "Request",
    "ScheduleConfig",
    "Tiling",
    "TransformerConfig",
    "VAEConfig",
    "Variant",
    "VideoSize",
    "check_size",
    "decode_memory",
    "default_size",
    "encode_memory",
    "image_latent_factor",
    "image_latents",
    "latent_size",
    "load_lora",
    "load_pipeline",
    "load_text_encoder",
    "load_transformer",
    "load_vae",
    "make_sampler",
]
