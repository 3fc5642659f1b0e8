"""The same short run with our code and with diffusers, for `check_weights`: two steps at a small size, then a decode.

Both get the same embeddings, the same seed and, for the VAE, the same latents. A learned position table, which fits the
training size only, is cut down to the small size in both.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..models.config import TransformerConfig
from ..models.shapes import VideoSize, default_size, latent_size
from ..models.transformer.model import CogVideoXTransformer3D
from ..models.variants import Variant
from ..pipeline.pipeline import CogVideoXPipeline
from ..weights.load import load_transformer, load_vae

STEPS = 2
GUIDANCE = 2.0  # computes both halves; more would multiply what 16 bits round
SMALL = VideoSize(64, 96, 17)  # 17 frames are two of the VAE's chunks, so what it carries between them counts
_SEED = 0
_TIMESTEP = 999


class Job(NamedTuple):
    """What to run: a whole folder, or for `try_once` a single component."""

    path: Path
    config: TransformerConfig
    variant: Variant
    size: VideoSize
    device: torch.device
    dtype: torch.dtype

    @property
    def cuts_table(self) -> bool:
        """Whether the model has a position table for another size than this."""
        return self.config.use_learned_positional_embeddings and self.size != default_size(self.config, self.variant)

    @property
    def small_config(self) -> TransformerConfig:
        """The configuration with this job's size as the training size."""
        return replace(self.config, **self.sample_size())

    def sample_size(self) -> dict[str, int]:
        """The fields of a configuration that say which size a position table is for, with this job's size."""
        ratio = self.variant.vae.spatial_compression_ratio
        return {
            "sample_height": self.size.height // ratio,
            "sample_width": self.size.width // ratio,
            "sample_frames": self.size.num_frames,
        }


class Sampled(NamedTuple):
    """What one program made, on the CPU in float32.

    Attributes:
        latents: [1, 16, T, h, w], model space, leading frames included.
        z: [1, 16, T, h, w], VAE space, without leading frames; what was decoded.
        frames: [1, 3, F, H, W], about -1 to 1.
        seconds: from the files to the frames.
        peak: bytes of memory at most; None where the system does not say.
    """

    latents: Tensor
    z: Tensor
    frames: Tensor
    seconds: float
    peak: int | None


@torch.no_grad()
def sample(job: Job, embeds: Tensor) -> Sampled:
    """Our run.

    Args:
        embeds: [2, L, D], of the prompt and the negative prompt.
    Raises: FloatingPointError for latents that are not finite.
    """
    with _measured(job.device) as spent, _full_precision():
        transformer = _transformer(job)
        vae = load_vae(job.path, dtype=job.dtype, device=job.device)
        pipeline = CogVideoXPipeline(transformer, vae, None, job.variant)
        latents = pipeline(**_request(job, embeds), vae_tiling="exact", output_type="latent")
        leading = latent_size(job.size, transformer.config, job.variant).leading
        z = latents[:, :, leading:] / job.variant.vae.scaling_factor
        frames = vae.decode(z.to(job.dtype))
    return Sampled(latents.float().cpu(), z.float().cpu(), frames.float().cpu(), *spent)


@torch.no_grad()
def sample_with_diffusers(job: Job, embeds: Tensor, z: Tensor) -> Sampled:
    """The run of diffusers, which reads the folder by itself.

    Args:
        embeds: [2, L, D], of the prompt and the negative prompt.
        z: [1, 16, T, h, w], ours, to decode.
    """
    diffusers: Any = import_module("diffusers")
    how: dict[str, Any] = {"torch_dtype": job.dtype, "local_files_only": True}
    with _measured(job.device) as spent, _full_precision():
        transformer = diffusers.CogVideoXTransformer3DModel.from_pretrained(job.path / "transformer", **how)
        vae = diffusers.AutoencoderKLCogVideoX.from_pretrained(job.path / "vae", **how).to(job.device)
        scheduler = diffusers.CogVideoXDDIMScheduler.from_pretrained(job.path / "scheduler", local_files_only=True)
        _cut_table_of_diffusers(transformer, job)
        is_image = job.variant.conditioning == "image"
        kind = diffusers.CogVideoXImageToVideoPipeline if is_image else diffusers.CogVideoXPipeline
        parts = {"transformer": transformer.to(job.device), "vae": vae, "scheduler": scheduler}
        pipeline = kind(tokenizer=None, text_encoder=None, **parts)
        pipeline.set_progress_bar_config(disable=True)
        latents = pipeline(**_request(job, embeds), output_type="latent").frames.transpose(1, 2)
        frames = vae.decode(z.to(job.device, job.dtype)).sample
    return Sampled(latents.float().cpu(), z, frames.float().cpu(), *spent)


@torch.no_grad()
def try_once(job: Job, is_vae: bool) -> Tensor:
    """A single component, used once on drawn numbers: v [1, 16, T, h, w] of a transformer, frames of a VAE."""
    generator = torch.Generator().manual_seed(_SEED)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(job.device, job.dtype)

    if is_vae:
        vae = load_vae(job.path, dtype=job.dtype, device=job.device)
        ratio = vae.config.spatial_compression_ratio
        return vae.decode(drawn(1, vae.config.latent_channels, 5, job.size.height // ratio, job.size.width // ratio))
    transformer = _transformer(job)
    config = transformer.config
    shape = latent_size(job.size, config, job.variant).shape(1, config.in_channels)
    embeds = drawn(1, config.max_text_seq_length, config.text_embed_dim)
    return transformer(drawn(*shape), embeds, torch.tensor([_TIMESTEP], device=job.device))


def _transformer(job: Job) -> CogVideoXTransformer3D:
    """The job's transformer, with a position table for the job's size."""
    transformer = load_transformer(job.path, dtype=job.dtype, device=job.device)
    if job.cuts_table:
        embed = transformer.patch_embed
        embed.pos_embedding = _corner(embed.pos_embedding, job)
        transformer.config = embed.config = job.small_config
    return transformer


def _cut_table_of_diffusers(transformer: Any, job: Job) -> None:
    """As `_transformer` does it."""
    if job.cuts_table:
        embed = transformer.patch_embed
        embed.pos_embedding = _corner(embed.pos_embedding, job)
        for name, value in job.sample_size().items():
            setattr(embed, name, value)
        transformer.register_to_config(**job.sample_size())


def _corner(table: Tensor, job: Job) -> Tensor:
    """The rows of a learned table [1, L + T*h*w, D] for the text, and for the first cells along each axis."""
    text_length = job.config.max_text_seq_length
    frames, height, width = job.small_config.training_grid
    cells = table[:, text_length:].unflatten(1, job.config.training_grid)  # [1, T, h, w, D]
    corner = cells[:, :frames, :height, :width].flatten(1, 3)
    return torch.cat([table[:, :text_length], corner], dim=1)


def _request(job: Job, embeds: Tensor) -> dict[str, Any]:
    """Arguments that both pipelines know."""
    request: dict[str, Any] = {
        "prompt_embeds": embeds[:1].to(job.device),
        "negative_prompt_embeds": embeds[1:].to(job.device),
        "height": job.size.height,
        "width": job.size.width,
        "num_frames": job.size.num_frames,
        "num_inference_steps": STEPS,
        "guidance_scale": GUIDANCE,
        "generator": torch.Generator().manual_seed(_SEED),
    }
    return request | ({"image": _picture(job.size)} if job.variant.conditioning == "image" else {})


def _picture(size: VideoSize) -> Any:
    """A picture with edges and gradients, as PIL has it."""
    from PIL import Image

    gradient = Image.linear_gradient("L").resize((size.width, size.height))
    rings = Image.radial_gradient("L").resize((size.width, size.height))
    stripes = rings.point([255 * (value // 32 % 2) for value in range(256)])
    return Image.merge("RGB", (gradient, rings, stripes))


@contextmanager
def _measured(device: torch.device) -> Iterator[list[Any]]:
    """Gives a list that holds seconds and peak bytes afterwards; frees what was loaded before first."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    spent: list[Any] = []
    began = time.perf_counter()
    yield spent
    spent += [time.perf_counter() - began, _peak(device)]


def _peak(device: torch.device) -> int | None:
    """Most bytes so far: of PyTorch on a CUDA device, of the process on a CPU; None where nobody counts."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type != "cpu":
        return None
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _full_precision() -> AbstractContextManager[None]:
    """A GPU's convolutions in float32 round to 10 bits unless that is switched off."""
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
