"""CogVideoX in plain PyTorch: text and image to video, without ComfyUI.

Letters in shapes: B batch, F pixel frames, T latent frames, C channels, H W rows and columns (h w of latents), L text
tokens, N video tokens, D width of a token. Axes are [B, C, T, H, W] everywhere. `latents` are in model space (times the
VAE's scaling factor), `z` in VAE space. Video is [B, 3, F, H, W], in [-1, 1] at the VAE, in [0, 1] for people.

The public names below are imported from their modules when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .models.config import ScheduleConfig, TransformerConfig, VAEConfig
    from .models.shapes import LatentSize, VideoSize, check_size, default_size, latent_size
    from .models.transformer.model import CogVideoXTransformer3D
    from .models.vae.autoencoder import AutoencoderCausal3D
    from .models.vae.memory import decode_memory, encode_memory
    from .models.vae.tiling import Tiling
    from .models.variants import VARIANTS, Variant
    from .pipeline.conditioning import image_latent_factor, image_latents
    from .pipeline.folder import load_pipeline
    from .pipeline.pipeline import CogVideoXPipeline, Progress
    from .pipeline.request import Request
    from .sampling.noise_schedule import NoiseSchedule
    from .sampling.samplers import make_sampler
    from .videos.video_files import write_video
    from .videos.video_io import read_video
    from .weights.errors import CheckpointError
    from .weights.load import load_transformer, load_vae
    from .weights.lora import LoRA, load_lora
    from .weights.t5 import load_text_encoder

    __version__: str

_MODULES = {
    "models.config": ("ScheduleConfig", "TransformerConfig", "VAEConfig"),
    "models.shapes": ("LatentSize", "VideoSize", "check_size", "default_size", "latent_size"),
    "models.transformer.model": ("CogVideoXTransformer3D",),
    "models.vae.autoencoder": ("AutoencoderCausal3D",),
    "models.vae.memory": ("decode_memory", "encode_memory"),
    "models.vae.tiling": ("Tiling",),
    "models.variants": ("VARIANTS", "Variant"),
    "pipeline.conditioning": ("image_latent_factor", "image_latents"),
    "pipeline.folder": ("load_pipeline",),
    "pipeline.pipeline": ("CogVideoXPipeline", "Progress"),
    "pipeline.request": ("Request",),
    "sampling.noise_schedule": ("NoiseSchedule",),
    "sampling.samplers": ("make_sampler",),
    "videos.video_files": ("write_video",),
    "videos.video_io": ("read_video",),
    "weights.errors": ("CheckpointError",),
    "weights.load": ("load_transformer", "load_vae"),
    "weights.lora": ("LoRA", "load_lora"),
    "weights.t5": ("load_text_encoder",),
}
_HOME: dict[str, str] = {}
for _module, _names in _MODULES.items():
    _HOME |= dict.fromkeys(_names, _module)
_ROOMS = ("cli", "demo", "kernels", "models", "pipeline", "sampling", "training", "videos", "weights")

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
    "read_video",
    "write_video",
]


def __getattr__(name: str) -> Any:
    """A public name from its module, a folder of the core, or the version."""
    if name == "__version__":
        value = _version()
    elif name in _HOME:
        value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    elif name in _ROOMS:
        value = import_module(f".{name}", __name__)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def _version() -> str:
    """The version in pyproject.toml for a checkout, which need not be installed; else that of the installed package.

    It is written in that file alone: ComfyUI, its manager and its registry read it there.
    """
    import re
    from importlib import metadata
    from pathlib import Path

    project = Path(__file__).resolve().parents[1] / "pyproject.toml"
    text = project.read_text(encoding="utf-8") if project.is_file() else ""
    written = re.search(r'^name = "cogvideox-nodes"\nversion = "([^"]+)"$', text, re.MULTILINE)
    return written[1] if written else metadata.version("cogvideox-nodes")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS, "__version__"})
