"""What a CogVideoX model has: frozen dataclasses, one per component.

Field names are those of the published `config.json` files, so a diffusers folder reads straight into them.
The numbers of the five released models are in `variants.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal

PositionTable = Literal["trained", "interpolated", "omitted"]
"""What becomes of a learned position table: used at the size it was trained for only, interpolated between its cells
for any other, or left out, as in fine-tunes that were trained without it."""


@dataclass(frozen=True)
class TransformerConfig:
    """Shape of the expert-adaLN diffusion transformer.

    `sample_height`, `sample_width` are latent rows and columns of the training size; `sample_frames` counts pixel
    frames. They set the base grid of the rotary and of the learned positions, and the default size of a video.
    """

    num_attention_heads: int
    num_layers: int
    attention_head_dim: int = 64
    in_channels: int = 16
    out_channels: int = 16
    time_embed_dim: int = 512
    ofs_embed_dim: int | None = None
    text_embed_dim: int = 4096
    max_text_seq_length: int = 226
    patch_size: int = 2
    patch_size_t: int | None = None
    sample_height: int = 60
    sample_width: int = 90
    sample_frames: int = 49
    temporal_compression_ratio: int = 4
    norm_eps: float = 1e-5
    spatial_interpolation_scale: float = 1.875
    temporal_interpolation_scale: float = 1.0
    use_rotary_positional_embeddings: bool = True
    use_learned_positional_embeddings: bool = False

    @property
    def width(self) -> int:
        """D, the width of a token."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def frame_patch(self) -> int:
        """Latent frames that share one token: 1 in the 1.0 family, 2 in 1.5."""
        return self.patch_size_t or 1

    @property
    def image_channels(self) -> int:
        """Channels concatenated behind the noisy latents: 0 for text-to-video, 16 for image-to-video."""
        return self.in_channels - self.out_channels

    @property
    def table_latent_frames(self) -> int:
        """Latent frames covered by the position table of the training size."""
        return (self.sample_frames - 1) // self.temporal_compression_ratio + 1

    @property
    def training_grid(self) -> tuple[int, int, int]:
        """Latent frames, and rows and columns of tokens, at the training size: the grid of a learned position table."""
        return self.table_latent_frames, self.sample_height // self.patch_size, self.sample_width // self.patch_size

    @property
    def position_rows(self) -> int:
        """Rows of a learned position table: the text's tokens, then those of `training_grid`."""
        return self.max_text_seq_length + prod(self.training_grid)

    @property
    def patch_features(self) -> int:
        """Values of one output token: out_channels times the cells of a patch."""
        return self.out_channels * self.frame_patch * self.patch_size**2


@dataclass(frozen=True)
class VAEConfig:
    """Shape of the causal 3D VAE, and the scale between its latents and the transformer's.

    `sample_height`, `sample_width` are pixels; half of each is a tile of the blended tiling.
    """

    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 16
    block_out_channels: tuple[int, ...] = (128, 256, 256, 512)
    layers_per_block: int = 3
    norm_num_groups: int = 32
    norm_eps: float = 1e-6
    temporal_compression_ratio: int = 4
    sample_height: int = 480
    sample_width: int = 720
    scaling_factor: float = 0.7
    invert_scale_latents: bool = False

    @property
    def spatial_compression_ratio(self) -> int:
        """Pixels per latent on each side: one halving per level but the last."""
        return 2 ** (len(self.block_out_channels) - 1)


@dataclass(frozen=True)
class ScheduleConfig:
    """The noise schedule a model was trained with (scaled-linear betas, zero terminal SNR, v-prediction)."""

    num_train_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    snr_shift_scale: float = 1.0
