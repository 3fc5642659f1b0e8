"""VAE: the causal 3D VAE as a `comfy.sd.VAE`, so that ComfyUI's own encode and decode nodes take it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.utils
import torch
from comfy.taesd.taesd import TAESD
from torch import Tensor

from ....cogvideox_core.models.shapes import VideoSize
from ....cogvideox_core.models.vae.autoencoder import AutoencoderCausal3D
from ....cogvideox_core.models.vae.chunks import LATENTS_PER_CHUNK, frame_chunks
from ....cogvideox_core.models.vae.memory import MEMORY, Task
from ....cogvideox_core.models.vae.memory_plan import Budget, Plan, make_plan
from ....cogvideox_core.models.vae.tiling import Tiling, TilingChoice
from ....cogvideox_core.weights import empty_layers as layers
from ....cogvideox_core.weights.fill import fill_host_module
from ....cogvideox_core.weights.load import read_vae
from .kernel_weights import with_kernel_weights


class FirstStage(AutoencoderCausal3D):
    """The VAE with the method signatures ComfyUI calls; pixels in -1 to 1, latents unscaled.

    What convolutions carry from chunk to chunk goes to main memory by itself where the device has no room for it.
    """

    comfy_has_chunked_io = True  # decode() may be handed the output buffer, which then fills chunk by chunk

    def encode(self, video: Tensor, device: torch.device | None = None, tiling: Tiling | None = None) -> Tensor:
        """The mean of the posterior [B, 16, T, h, w], on `device`, where frames go chunk by chunk."""
        like = video[:0] if device is None else video[:0].to(device)
        size = _pixel_size(video.shape if tiling is None else (*video.shape[:3], tiling.tile_height, tiling.tile_width))
        cache_device = self._cache_device("encode", size, like, len(video))
        return super().encode(video, tiling, like=like, cache_device=cache_device).mode()

    def decode(
        self, z: Tensor, output_buffer: Tensor | None = None, tiling: Tiling | None = None, **options: Any
    ) -> Tensor:
        """Frames [B, 3, F, H, W]; written into `output_buffer` as they are made, where one is given."""
        if tiling is not None:
            frames = super().decode(z, tiling, device=comfy.model_management.intermediate_device())
            return frames if output_buffer is None else output_buffer.copy_(frames)
        if output_buffer is None:
            output_buffer = torch.empty(self.decode_output_shape(z.shape), device=z.device, dtype=z.dtype)
        cache_device = self._cache_device("decode", self.video_size(z.shape), z, len(z))
        progress = comfy.utils.ProgressBar(len(frame_chunks(z.shape[2], LATENTS_PER_CHUNK)))
        start = 0
        for chunk in self.decode_stream(z, cache_device=cache_device):
            output_buffer[:, :, start : start + chunk.shape[2]].copy_(chunk)
            start += chunk.shape[2]
            progress.update(1)
        return output_buffer

    def decode_output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the frames of latents [B, 16, T, h, w]."""
        size = self.video_size(shape)
        return shape[0], self.config.out_channels, size.num_frames, size.height, size.width

    def decode_tiled(self, z: Tensor, tile_x: int, tile_y: int, overlap: int, **temporal: Any) -> Tensor:
        """Frames [B, 3, F, H, W] of z [B, 16, T, h, w], by blended tiles of ComfyUI's sizes (latent rows and columns).

        Time is streamed, so its tiling is not needed.
        """
        ratio = self.config.spatial_compression_ratio
        return self.decode(z, tiling=self.tiles(tile_x * ratio, tile_y * ratio, overlap * ratio))

    def encode_tiled(self, video: Tensor, tile_x: int, tile_y: int, overlap: int, **temporal: Any) -> Tensor:
        """z [B, 16, T, h, w] of a video [B, 3, F, H, W], by blended tiles of ComfyUI's sizes (pixels)."""
        return self.encode(video, tiling=self.tiles(tile_x, tile_y, overlap))

    def tiles(self, width: int | None, height: int | None, overlap: int | None) -> Tiling:
        """Blended tiles of about this size in pixels, rounded down to whole latents, at least two.

        The overlap is the same in both directions and at most half a tile. None takes the published tiles' value.
        """
        ratio, published = self.config.spatial_compression_ratio, Tiling.of(self.config)
        if overlap is None:
            overlap = round(published.tile_height * published.overlap_height)
        rows, columns = (
            max(side // ratio, 2) for side in (height or published.tile_height, width or published.tile_width)
        )
        shared = min(overlap // ratio, rows // 2, columns // 2)
        return Tiling(rows * ratio, columns * ratio, overlap_height=shared / rows, overlap_width=shared / columns)

    def _cache_device(self, task: Task, size: VideoSize, like: Tensor, batch: int) -> torch.device | None:
        free = cast(int, comfy.model_management.get_free_memory(like.device))
        budget = Budget(like.dtype, like.device, int(free / max(batch, 1)))
        return make_plan(task, "exact", self.config, size, budget).cache_device


class CogVideoXVAE(comfy.sd.VAE):
    """A `comfy.sd.VAE` around a model that was built here.

    `comfy.sd.VAE` recognizes its model by the weights it is given, and would take these for the VAE of ComfyUI's own
    CogVideoX. It is therefore given the weights of a tiny one, so that every attribute, those of later releases too,
    gets a value, and then our model in place of the tiny one.
    LATENT keeps z of the VAE; the scaling factor belongs to the MODEL.
    """

    def __init__(self, first_stage: FirstStage, dtype: torch.dtype) -> None:
        mm = comfy.model_management
        super().__init__(sd=TAESD().state_dict(), dtype=dtype)
        self.first_stage_model = first_stage
        patcher_class = comfy.model_patcher.CoreModelPatcher
        self.patcher = patcher_class(first_stage, load_device=self.device, offload_device=mm.vae_offload_device())
        mm.archive_model_dtypes(first_stage)
        self.size = None  # counted again
        self.working_dtypes = [torch.bfloat16, torch.float32]
        self.crop_input, self.handles_tiling = True, True
        self._set_shapes(first_stage)
        self.memory_used_encode = lambda shape, dtype: self._memory("encode", _pixel_size(shape), dtype)
        self.memory_used_decode = lambda shape, dtype: self._memory("decode", first_stage.video_size(shape), dtype)

    def _set_shapes(self, first_stage: FirstStage) -> None:
        """What ComfyUI's nodes ask to get from the shape of frames to that of latents, and back."""
        config = first_stage.config
        ratio_t, ratio = config.temporal_compression_ratio, config.spatial_compression_ratio
        self.latent_channels, self.latent_dim = config.latent_channels, 3
        self.output_channels = config.out_channels
        self.downscale_ratio = (lambda frames: max(0, (frames + ratio_t - 1) // ratio_t), ratio, ratio)
        self.upscale_ratio = (lambda latents: first_stage.video_size((1, 1, latents, 1, 1)).num_frames, ratio, ratio)
        self.downscale_index_formula = self.upscale_index_formula = (ratio_t, ratio, ratio)

    def plan(self, task: Task, choice: TilingChoice, size: VideoSize, tiles: Tiling) -> Plan:
        """How to decode or encode a clip, after ComfyUI has made what room it can for the exact picture."""
        if choice == "auto" and self._memory(task, size, self.vae_dtype) <= self._total_memory():
            self._make_room(task, size)
        budget = Budget(self.vae_dtype, self.device, int(self.patcher.get_free_memory(self.device)))
        return make_plan(task, choice, self.first_stage_model.config, size, budget, tiles)

    def decode_tiled(
        self,
        samples: Tensor,
        tile_x: int | None = None,
        tile_y: int | None = None,
        overlap: int | None = None,
        **temporal: Any,
    ) -> Tensor:
        """Frames [B, F, H, W, C] by blended tiles of ComfyUI's sizes (latent rows and columns)."""
        ratio = self.first_stage_model.config.spatial_compression_ratio
        sides = [None if side is None else side * ratio for side in (tile_x, tile_y, overlap)]
        return self.decode_blended(samples, self.first_stage_model.tiles(*sides))

    def encode_tiled(
        self,
        pixel_samples: Tensor,
        tile_x: int | None = None,
        tile_y: int | None = None,
        overlap: int | None = None,
        **temporal: Any,
    ) -> Tensor:
        """z [1, 16, T, h, w] of frames by blended tiles of ComfyUI's sizes (pixels)."""
        return self.encode_blended(pixel_samples, self.first_stage_model.tiles(tile_x, tile_y, overlap))

    def decode_blended(self, z: Tensor, tiling: Tiling) -> Tensor:
        """Frames [B, F, H, W, C] in 0 to 1 of z [B, 16, T, h, w], by tiles; room is made for one of them."""
        size = self.first_stage_model.video_size(z.shape)
        self._make_room("decode", VideoSize(tiling.tile_height, tiling.tile_width, size.num_frames))
        with comfy.model_management.cuda_device_context(self.device):
            frames = self.first_stage_model.decode(z.to(self.device, self.vae_dtype), tiling=tiling)
        return self.process_output(frames.to(self.output_device, self.vae_output_dtype())).movedim(1, -1)

    def encode_blended(self, frames: Tensor, tiling: Tiling) -> Tensor:
        """z [1, 16, T, h, w] of frames [F, H, W, 3] in 0 to 1, by tiles; room is made for one of them."""
        video = self.vae_encode_crop_pixels(frames).movedim(-1, -4)
        video = video if video.ndim == 5 else video[None]
        self._make_room("encode", VideoSize(tiling.tile_height, tiling.tile_width, video.shape[2]))
        with comfy.model_management.cuda_device_context(self.device):
            video = self.process_input(video).to(self.vae_dtype)
            z = self.first_stage_model.encode(video, self.device, tiling)
        return z.to(self.output_device, self.vae_output_dtype())

    def _make_room(self, task: Task, size: VideoSize) -> None:
        needed = self._memory(task, size, self.vae_dtype)
        comfy.model_management.load_models_gpu([self.patcher], memory_required=needed)

    def _total_memory(self) -> int:
        """Bytes that the device has, whether free or not."""
        return cast(int, comfy.model_management.get_total_memory(self.device))

    def _memory(self, task: Task, size: VideoSize, dtype: torch.dtype) -> int:
        """Bytes to have free for a clip; with what convolutions keep between chunks, where the device could hold it."""
        config, memory = self.first_stage_model.config, MEMORY[task]
        needed = memory(config, size, dtype, self.device)
        if needed <= self._total_memory():
            return needed
        return memory(config, size, dtype, self.device, keeps_cache=False)


def load_vae(path: str | Path) -> CogVideoXVAE:
    """A VAE of a folder or file. Raises: CheckpointError if it holds no CogVideoX VAE."""
    mm = comfy.model_management
    config, state_dict = read_vae(path)
    dtype = mm.vae_dtype(mm.vae_device(), [torch.bfloat16, torch.float32])
    first_stage = FirstStage(
        config, device=torch.device("meta"), operations=with_kernel_weights(comfy.ops.disable_weight_init)
    )
    like = AutoencoderCausal3D(config, device="meta", operations=layers)
    fill_host_module(first_stage, state_dict, dtype=dtype, device=mm.vae_offload_device(), source=path, like=like)
    return CogVideoXVAE(first_stage, dtype)


def cogvideox_vae(vae: Any) -> CogVideoXVAE:
    """The VAE, if it is one of ours. Raises: ValueError if it is another one."""
    if not isinstance(vae, CogVideoXVAE):
        raise ValueError(f"a VAE of type {type(vae).__name__}; this node takes one from CogVideoX Load VAE")
    return vae


def _pixel_size(shape: tuple[int, ...]) -> VideoSize:
    """Of a video [B, 3, F, H, W]."""
    return VideoSize(shape[3], shape[4], shape[2])
