"""VAE: the causal 3D VAE as a `comfy.sd.VAE`, so that ComfyUI's own encode and decode nodes take it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.utils
import torch
from torch import Tensor

from ...cogvideox_core.config import VAEConfig
from ...cogvideox_core.vae import AutoencoderCausal3D, Tiling
from ...cogvideox_core.vae.autoencoder import LATENTS_PER_CHUNK, frame_chunks
from ...cogvideox_core.weights import fill, layers, read_vae
from .lending import lending

# Estimates, not measured on a GPU yet: values alive at once while the widest layers of one chunk run, per pixel of the
# picture: about four copies of 9 frames of the widest full-size layer, and the two frames each convolution carries.
_DECODE_VALUES_PER_PIXEL = 4 * 9 * 256 + 2 * 12 * 128
_ENCODE_VALUES_PER_PIXEL = 4 * 9 * 128 + 2 * 7 * 128


class FirstStage(AutoencoderCausal3D):
    """The VAE with the method signatures ComfyUI calls; pixels in -1 to 1, latents unscaled."""

    comfy_has_chunked_io = True  # decode() may be handed the output buffer, which then fills chunk by chunk

    def encode(self, video: Tensor, device: torch.device | None = None, tiling: Tiling | None = None) -> Tensor:
        """The mean of the posterior; [B, 16, T, h, w]."""
        return super().encode(video if device is None else video.to(device), tiling).mode()

    def decode(
        self, z: Tensor, output_buffer: Tensor | None = None, tiling: Tiling | None = None, **options: Any
    ) -> Tensor:
        """Frames [B, 3, F, H, W]; written into `output_buffer` as they are made, where one is given."""
        if tiling is not None:
            frames = super().decode(z, tiling)
            return frames if output_buffer is None else output_buffer.copy_(frames)
        if output_buffer is None:
            output_buffer = torch.empty(self.decode_output_shape(z.shape), device=z.device, dtype=z.dtype)
        progress = comfy.utils.ProgressBar(len(frame_chunks(z.shape[2], LATENTS_PER_CHUNK)))
        start = 0
        for chunk in self.decode_stream(z):
            output_buffer[:, :, start : start + chunk.shape[2]].copy_(chunk)
            start += chunk.shape[2]
            progress.update(1)
        return output_buffer

    def decode_output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the frames of latents [B, 16, T, h, w]."""
        ratio = self.config.spatial_compression_ratio
        frames = pixel_frames(shape[2], self.config)
        return shape[0], self.config.out_channels, frames, shape[3] * ratio, shape[4] * ratio

    def decode_tiled(self, z: Tensor, tile_x: int = 45, tile_y: int = 30, overlap: int = 8, **temporal: Any) -> Tensor:
        """Blended tiles of ComfyUI's sizes (latent rows and columns). Time is streamed, so its tiling is not needed."""
        ratio = self.config.spatial_compression_ratio
        return self.decode(z, tiling=_tiling(tile_x * ratio, tile_y * ratio, overlap * ratio, ratio))

    def encode_tiled(
        self, video: Tensor, tile_x: int = 360, tile_y: int = 240, overlap: int = 64, **temporal: Any
    ) -> Tensor:
        """Blended tiles of ComfyUI's sizes (pixels)."""
        return self.encode(video, tiling=_tiling(tile_x, tile_y, overlap, self.config.spatial_compression_ratio))


class CogVideoXVAE(comfy.sd.VAE):
    """A `comfy.sd.VAE` that is told what it holds instead of guessing it.

    LATENT keeps VAE-space z; the scaling factor belongs to the MODEL.
    """

    def __init__(self, first_stage: FirstStage, dtype: torch.dtype) -> None:
        mm = comfy.model_management
        config = first_stage.config
        ratio_t, ratio = config.temporal_compression_ratio, config.spatial_compression_ratio
        self.first_stage_model = first_stage
        self.device = mm.vae_device()
        self.output_device = mm.intermediate_device()
        self.vae_dtype = dtype
        self.working_dtypes = [torch.bfloat16, torch.float32]
        self.latent_channels, self.latent_dim = config.latent_channels, 3
        self.output_channels, self.pad_channel_value = config.out_channels, None
        self.process_input = lambda image: image * 2.0 - 1.0
        self.process_output = lambda image: image.add_(1.0).div_(2.0).clamp_(0.0, 1.0)
        self.downscale_ratio = (lambda frames: max(0, (frames + ratio_t - 1) // ratio_t), ratio, ratio)
        self.upscale_ratio = (lambda latents: pixel_frames(latents, config), ratio, ratio)
        self.downscale_index_formula = self.upscale_index_formula = (ratio_t, ratio, ratio)
        self.memory_used_encode = lambda shape, dtype: (
            _ENCODE_VALUES_PER_PIXEL * shape[-2] * shape[-1] * mm.dtype_size(dtype)
        )
        self.memory_used_decode = lambda shape, dtype: (
            _DECODE_VALUES_PER_PIXEL * shape[-2] * shape[-1] * ratio**2 * mm.dtype_size(dtype)
        )
        self.crop_input, self.not_video, self.disable_offload = True, False, False
        self.handles_tiling = True
        self.size = self.extra_1d_channel = self.format_encoded = None
        self.audio_sample_rate = 44100
        patcher_class = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
        self.patcher = patcher_class(first_stage, load_device=self.device, offload_device=mm.vae_offload_device())
        if hasattr(mm, "archive_model_dtypes"):
            mm.archive_model_dtypes(first_stage)

    def model_size(self) -> int:
        """Bytes of the weights."""
        return comfy.model_management.module_size(self.first_stage_model)


def load_vae(path: str | Path) -> CogVideoXVAE:
    """A VAE of a folder or file. Raises: CheckpointError if it holds no CogVideoX VAE."""
    mm = comfy.model_management
    config, state_dict = read_vae(path)
    dtype = mm.vae_dtype(mm.vae_device(), [torch.bfloat16, torch.float32])
    first_stage = FirstStage(config, device=torch.device("meta"), operations=lending(comfy.ops.disable_weight_init))
    like = AutoencoderCausal3D(config, device="meta", operations=layers)
    fill(first_stage, state_dict, dtype=dtype, device=mm.vae_offload_device(), source=path, like=like)
    return CogVideoXVAE(first_stage, dtype)


def cogvideox_vae(vae: Any) -> CogVideoXVAE:
    """The VAE, if it is one of ours. Raises: ValueError if it is another one."""
    if not isinstance(vae, CogVideoXVAE):
        raise ValueError(f"a VAE of type {type(vae).__name__}; this node takes one from CogVideoX Load VAE")
    return vae


def pixel_frames(latents: int, config: VAEConfig) -> int:
    """Frames that `latents` latent frames decode to: 4(T - 1) + 1 for odd T, 4T for even T."""
    ratio = config.temporal_compression_ratio
    return ratio * latents - (ratio - 1) * (latents % 2)


def _tiling(tile_width: int, tile_height: int, overlap: int, ratio: int) -> Tiling:
    """Blended tiles of whole latents, with the same overlap on both sides, at most half a tile."""
    height, width = (max(pixels // ratio, 2) for pixels in (tile_height, tile_width))
    overlap = min(overlap // ratio, height // 2, width // 2)
    return Tiling(height * ratio, width * ratio, overlap_height=overlap / height, overlap_width=overlap / width)
