"""The size of a video, and of the latents a transformer works on."""

from __future__ import annotations

from dataclasses import dataclass

from .config import TransformerConfig


@dataclass(frozen=True)
class VideoSize:
    """Size of a video in pixels and frames."""

    height: int
    width: int
    num_frames: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}, {self.num_frames} frames"


@dataclass(frozen=True)
class LatentSize:
    """Size of what the transformer works on.

    Attributes:
        frames: latent frames, the leading ones included.
        leading: latent frames put in front so that frames fill whole patches (1.5); dropped before decoding.
    """

    frames: int
    height: int
    width: int
    leading: int

    def shape(self, batch: int, channels: int) -> tuple[int, int, int, int, int]:
        """[B, C, T, H, W]."""
        return batch, channels, self.frames, self.height, self.width

    def tokens(self, config: TransformerConfig) -> int:
        """Video tokens, N."""
        return self.frames * self.height * self.width // (config.frame_patch * config.patch_size**2)

    def without_leading(self) -> LatentSize:
        """The clip alone."""
        return LatentSize(self.frames - self.leading, self.height, self.width, 0)
