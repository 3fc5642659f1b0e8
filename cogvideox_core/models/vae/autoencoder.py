"""The causal 3D VAE: 8 x 8 pixels by 4 frames to one latent.

A clip is worked through in chunks of 8 frames (2 latents), the remainder joined to the first chunk. That is part of
the function: GroupNorm takes its statistics over one chunk. It also makes streaming exact: a chunk needs only what the
convolutions keep of the chunks before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ...kernels import layers
from ..config import VAEConfig
from ..noise import Generator, draw
from ..sizes import VideoSize
from .blocks import Downsample3D, SpatialNorm3D, Stage, Upsample3D, residual_stage
from .causal_conv import CausalConv3d, ConvCache
from .chunks import FRAMES_PER_CHUNK, LATENTS_PER_CHUNK, frame_chunks
from .feature_maps import Strips, activated
from .tiling import Tiling, apply_tiled


class Posterior:
    """The diagonal Gaussian an encoder predicts; mean and logvar are [B, latent_channels, T, H, W]."""

    def __init__(self, moments: Tensor) -> None:
        self.mean, logvar = moments.chunk(2, dim=1)
        self.logvar = logvar.clamp(-30.0, 20.0)

    def mode(self) -> Tensor:
        """The most likely latents, [B, latent_channels, T, H, W]."""
        return self.mean

    def sample(self, generator: Generator = None) -> Tensor:
        """Latents [B, latent_channels, T, H, W] drawn from the posterior, in diffusers' order."""
        noise = draw(self.mean.shape, generator, self.mean.device, self.mean.dtype)
        return self.mean + torch.exp(0.5 * self.logvar) * noise


class Encoder3D(nn.Module):
    """[B, 3, F, H, W] -> [B, 2 * latent_channels, F / 4, H / 8, W / 8]."""

    def __init__(self, config: VAEConfig, operations: Any, **factory: Any) -> None:
        super().__init__()
        widths = config.block_out_channels

        def stage(count: int, in_channels: int, out_channels: int) -> Stage:
            options = {"conditioned": False, **factory}
            return residual_stage(count, in_channels, out_channels, config, operations, **options)

        self.conv_in = CausalConv3d(config.in_channels, widths[0], operations, **factory)
        self.down_blocks = nn.ModuleList()
        time_levels = config.temporal_compression_ratio.bit_length() - 1
        for level, (width_in, width) in enumerate(pairwise((widths[0], *widths))):
            level_stage = stage(config.layers_per_block, width_in, width)
            if level < len(widths) - 1:
                halve_time = level < time_levels
                level_stage.downsamplers = nn.ModuleList(
                    [Downsample3D(width, operations, halve_time=halve_time, **factory)]
                )
            self.down_blocks.append(level_stage)
        self.mid_block = stage(2, widths[-1], widths[-1])
        self.norm_out = operations.GroupNorm(config.norm_num_groups, widths[-1], eps=1e-6, **factory)
        self.conv_out = CausalConv3d(widths[-1], 2 * config.latent_channels, operations, **factory)

    def forward(self, x: Tensor, cache: ConvCache) -> Tensor:
        """One chunk x [B, 3, F, H, W] in [-1, 1] -> mean and logvar [B, 2 * latent_channels, F / 4, H / 8, W / 8]."""
        maps = self.conv_in(Strips([x]), cache)
        for stage in self.down_blocks:
            maps = stage(maps, cache)
        maps = self.mid_block(maps, cache)
        return self.conv_out(activated(maps, self.norm_out), cache).whole().contiguous()


class Decoder3D(nn.Module):
    """[B, latent_channels, T, H, W] -> [B, 3, F, 8H, 8W]; F is 4T for even T, 4(T - 1) + 1 for odd T."""

    def __init__(self, config: VAEConfig, operations: Any, **factory: Any) -> None:
        super().__init__()
        widths = config.block_out_channels[::-1]

        def stage(count: int, in_channels: int, out_channels: int) -> Stage:
            options = {"conditioned": True, **factory}
            return residual_stage(count, in_channels, out_channels, config, operations, **options)

        self.conv_in = CausalConv3d(config.latent_channels, widths[0], operations, **factory)
        self.mid_block = stage(2, widths[0], widths[0])
        self.up_blocks = nn.ModuleList()
        time_levels = config.temporal_compression_ratio.bit_length() - 1
        for level, (width_in, width) in enumerate(pairwise((widths[0], *widths))):
            level_stage = stage(config.layers_per_block + 1, width_in, width)
            if level < len(widths) - 1:
                double_time = level < time_levels
                level_stage.upsamplers = nn.ModuleList(
                    [Upsample3D(width, operations, double_time=double_time, **factory)]
                )
            self.up_blocks.append(level_stage)
        self.norm_out = SpatialNorm3D(widths[-1], config, operations, **factory)
        self.conv_out = CausalConv3d(widths[-1], config.out_channels, operations, **factory)

    def forward(self, z: Tensor, cache: ConvCache) -> Tensor:
        """One chunk z [B, latent_channels, T, H, W] -> [B, 3, F, 8H, 8W], about -1 to 1."""
        x = self.conv_in(Strips([z]), cache)
        x = self.mid_block(x, cache, z)
        for stage in self.up_blocks:
            x = stage(x, cache, z)
        return self.conv_out(self.norm_out(x, z), cache).whole().contiguous()


class AutoencoderCausal3D(nn.Module):
    """Encodes videos to latents and back. Latents are VAE-space z, not yet times the scaling factor.

    Args:
        config: shape of the model.
        dtype, device: of the weights (device "meta" allocates nothing).
        operations: namespace with Conv2d, Conv3d and GroupNorm; those of layers.py, or a host's.
    Source: diffusers `AutoencoderKLCogVideoX`, arXiv 2408.06072 section 2.1.
    """

    def __init__(
        self,
        config: VAEConfig,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        operations: Any = layers,
    ) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder3D(config, operations, dtype=dtype, device=device)
        self.decoder = Decoder3D(config, operations, dtype=dtype, device=device)

    def encode(
        self,
        video: Tensor,
        tiling: Tiling | None = None,
        *,
        like: Tensor | None = None,
        cache_device: torch.device | None = None,
    ) -> Posterior:
        """Posterior of a video.

        Args:
            video: [B, 3, F, H, W] in [-1, 1]; H and W divide by 8.
            tiling: blended tiles where the video is larger than one.
            like: a tensor [...] of the device and dtype to compute in, if they are not the video's; frames go there
                chunk by chunk, never all at once.
            cache_device: as in `decode_stream`.
        Raises: ValueError if the shape does not fit.
        """
        self._check(video, self.config.in_channels, self.config.spatial_compression_ratio, "a video")
        target = video if like is None else like

        def moments(part: Tensor) -> Tensor:
            chunks = frame_chunks(part.shape[2], FRAMES_PER_CHUNK)
            return self._moments((part[:, :, chunk].to(target) for chunk in chunks), cache_device)

        if tiling is not None and _exceeds(video, tiling.tile_height, tiling.tile_width):
            ratio = self.config.spatial_compression_ratio
            return Posterior(apply_tiled(moments, video, tiling, ratio, to_pixels=False))
        return Posterior(moments(video))

    def encode_stream(
        self, pieces: Iterable[Tensor], num_frames: int, *, cache_device: torch.device | None = None
    ) -> Posterior:
        """Posterior of a video handed over in pieces, in memory that does not grow with its length: that of `encode`.

        Args:
            pieces: [B, 3, f, H, W] in [-1, 1], of any lengths; taken when they are needed.
            num_frames: of all pieces together; the first chunk depends on it.
            cache_device: as in `decode_stream`.
        Raises: ValueError if a shape does not fit, or if there are more or fewer frames.
        """

        def checked() -> Iterator[Tensor]:
            for piece in pieces:
                self._check(piece, self.config.in_channels, self.config.spatial_compression_ratio, "a video")
                yield piece

        return Posterior(self._moments(_regrouped(checked(), num_frames), cache_device))

    def decode(
        self,
        z: Tensor,
        tiling: Tiling | None = None,
        *,
        device: torch.device | None = None,
        cache_device: torch.device | None = None,
    ) -> Tensor:
        """Video [B, 3, F, 8H, 8W], about -1 to 1, of latents z [B, latent_channels, T, H, W].

        Args:
            z: F is 4(T - 1) + 1 for odd T and 4T for even T.
            tiling: blended tiles where the picture is larger than one.
            device: where the frames are gathered as they are made, if not where z is.
            cache_device: as in `decode_stream`.
        Raises: ValueError if the shape does not fit.
        """
        ratio, device = self.config.spatial_compression_ratio, device or z.device

        def frames(part: Tensor) -> Tensor:
            return torch.cat([chunk.to(device) for chunk in self.decode_stream(part, cache_device=cache_device)], dim=2)

        if tiling is not None and _exceeds(z, tiling.tile_height // ratio, tiling.tile_width // ratio):
            self._check(z, self.config.latent_channels, 1, "latents")
            return apply_tiled(frames, z, tiling, ratio, to_pixels=True)
        return frames(z)

    def decode_stream(self, z: Tensor, *, cache_device: torch.device | None = None) -> Iterator[Tensor]:
        """The frames of `decode(z)`, one chunk [B, 3, f, 8H, 8W] at a time, in memory that does not grow with T.

        Args:
            z: [B, latent_channels, T, H, W].
            cache_device: where the frames that convolutions keep from chunk to chunk are kept; None for where they
                compute. Main memory leaves room on a GPU for the time the copies take; the numbers are the same.
        """
        self._check(z, self.config.latent_channels, 1, "latents")
        cache = ConvCache(cache_device)
        for chunk in frame_chunks(z.shape[2], LATENTS_PER_CHUNK):
            yield self.decoder(z[:, :, chunk], cache)

    def video_size(self, shape: Sequence[int]) -> VideoSize:
        """The size of the video that latents of shape [B, C, T, h, w] decode to."""
        ratio_t, ratio = self.config.temporal_compression_ratio, self.config.spatial_compression_ratio
        num_frames = ratio_t * shape[2] - (ratio_t - 1) * (shape[2] % 2)
        return VideoSize(shape[3] * ratio, shape[4] * ratio, num_frames)

    def _moments(self, chunks: Iterator[Tensor], cache_device: torch.device | None) -> Tensor:
        cache = ConvCache(cache_device)
        return torch.cat([self.encoder(chunk, cache) for chunk in chunks], dim=2)

    @staticmethod
    def _check(x: Tensor, channels: int, multiple: int, what: str) -> None:
        if x.ndim != 5 or x.shape[1] != channels or not x.shape[2]:
            raise ValueError(f"{what} of shape {tuple(x.shape)}; the VAE takes [B, {channels}, frames, rows, columns]")
        if x.shape[3] % multiple or x.shape[4] % multiple:
            raise ValueError(
                f"{what} of {x.shape[4]} x {x.shape[3]} pixels; width and height must divide by {multiple}"
            )


def _exceeds(x: Tensor, height: int, width: int) -> bool:
    return x.shape[3] > height or x.shape[4] > width


def _regrouped(pieces: Iterator[Tensor], num_frames: int) -> Iterator[Tensor]:
    """Pieces [B, C, f, H, W], joined and cut to chunks. Raises: ValueError if they hold another number of frames."""
    waiting: list[Tensor] = []
    for chunk in frame_chunks(num_frames, FRAMES_PER_CHUNK):
        length = chunk.stop - chunk.start
        while sum(piece.shape[2] for piece in waiting) < length:
            if (piece := next(pieces, None)) is None:
                raise ValueError(f"the pieces of a video end before its num_frames={num_frames}; hand over all of them")
            waiting.append(piece)
        joined = torch.cat(waiting, dim=2)
        waiting = [joined[:, :, length:]]
        yield joined[:, :, :length]
    if waiting[0].shape[2] or next(pieces, None) is not None:
        raise ValueError(f"the pieces of a video go on after its num_frames={num_frames}; hand over no more")
