"""The diffusion transformer: one attention over text and video, an expert adaptive LayerNorm per modality.

Module names are the published state-dict names, so official files load unrenamed. Every layer with weights comes from
`operations`, so that a host can bring layers that stream, cast or quantize; nothing here looks at `.weight`.

In the joint sequence text is first: [text L | video N]. In a modulation vector the video's chunks are first.

Blocks take a batch of clips of one length, or with a `Packing` one row of clips that differ in length.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...kernels import layers
from ...kernels.layers import linear_gelu
from ..config import PositionTable, TransformerConfig
from ..variants import Variant
from .attention import AttentionFn, sdpa
from .block_ops import Packing, gated, modulated, normed_heads, per_token
from .positions import (
    AS_TRAINED,
    TRAINED_AXES,
    Grid,
    Positions,
    Rotary,
    RotaryAxes,
    rotary_table,
    sincos_table,
    table_at,
    timestep_embedding,
)

OFS = 2.0  # the only offset CogVideoX1.5-I2V was trained with; SAT and diffusers fix the same constant


class ExpertLayerNorm(nn.Module):
    """One LayerNorm for both modalities, then shift, scale (and later gate) of each modality's own."""

    def __init__(self, config: TransformerConfig, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.linear = operations.Linear(config.time_embed_dim, 6 * config.width, **factory)
        self.norm = operations.LayerNorm(config.width, eps=config.norm_eps, **factory)

    def forward(
        self, text: Tensor, video: Tensor, temb: Tensor, packing: Packing | None = None
    ) -> tuple[Tensor, Tensor]:
        """Text [B, L, D] and video [B, N, D] modulated [B, L + N, D]; and the modulation [B, 6 D] that holds gates.

        Args: temb: [B, time_embed_dim].
        """
        modulation = self.linear(temb)
        return modulated(self.norm, text, video, modulation, packing), modulation


class FinalLayerNorm(nn.Module):
    """The last adaptive LayerNorm: shift before scale, video only."""

    def __init__(self, config: TransformerConfig, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.linear = operations.Linear(config.time_embed_dim, 2 * config.width, **factory)
        self.norm = operations.LayerNorm(config.width, eps=config.norm_eps, **factory)

    def forward(self, video: Tensor, temb: Tensor, packing: Packing | None = None) -> Tensor:
        """video [B, N, D] -> [B, N, D]; temb: [B, time_embed_dim]."""
        shift, scale = per_token(self.linear(temb), packing, "video").chunk(2, dim=-1)
        return torch.addcmul(shift, self.norm(video), 1 + scale)


class JointAttention(nn.Module):
    """Attention over [text | video]; q and k are normalized per head and rotated by their position in the video."""

    def __init__(self, config: TransformerConfig, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        width, head_dim = config.width, config.attention_head_dim
        self.norm_q = operations.LayerNorm(head_dim, eps=1e-6, **factory)
        self.norm_k = operations.LayerNorm(head_dim, eps=1e-6, **factory)
        self.to_q = operations.Linear(width, width, **factory)
        self.to_k = operations.Linear(width, width, **factory)
        self.to_v = operations.Linear(width, width, **factory)
        self.to_out = nn.ModuleList([operations.Linear(width, width, **factory)])

    def forward(self, tokens: Tensor, rotary: Rotary | None, attention: AttentionFn) -> Tensor:
        """tokens [B, L + N, D], text first -> [B, L + N, D]; rotary: (cos, sin), each [L + N, head_dim / 2]."""
        q = normed_heads(self.norm_q, self._heads(self.to_q(tokens)), rotary)
        k = normed_heads(self.norm_k, self._heads(self.to_k(tokens)), rotary)
        v = self._heads(self.to_v(tokens))
        return self.to_out[0](attention(*(part.transpose(1, 2) for part in (q, k, v))))

    def _heads(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(-1, (self.heads, -1))  # (B, S, heads, d)


class GELUProjection(nn.Module):
    """Linear followed by the tanh approximation of GELU."""

    def __init__(self, width: int, inner: int, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.proj = operations.Linear(width, inner, **factory)

    def forward(self, tokens: Tensor) -> Tensor:
        """[..., width] -> [..., inner]."""
        return linear_gelu(self.proj, tokens)


class FeedForward(nn.Module):
    """D -> 4D -> D, shared by both modalities. `net.1` is the dropout of training, which has no weights."""

    def __init__(self, config: TransformerConfig, operations: Any, **factory: Any) -> None:
        super().__init__()
        width, inner = config.width, 4 * config.width
        self.net = nn.ModuleList(
            [
                GELUProjection(width, inner, operations, **factory),
                nn.Identity(),
                operations.Linear(inner, width, **factory),
            ]
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, S, D] -> [B, S, D]."""
        return self.net[2](self.net[0](tokens))


class Block(nn.Module):
    """Joint attention and a shared feed-forward, each between expert adaptive LayerNorms and gated residuals."""

    def __init__(self, config: TransformerConfig, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.norm1 = ExpertLayerNorm(config, operations, **factory)
        self.attn1 = JointAttention(config, operations, **factory)
        self.norm2 = ExpertLayerNorm(config, operations, **factory)
        self.ff = FeedForward(config, operations, **factory)
        self.computation: Callable[..., tuple[Tensor, Tensor]] = Block.compute

    def compile(self, *args: Any, **options: Any) -> None:
        """As `torch.nn.Module.compile`, but for hooks: they are called around the compiled code and are no part of it.

        So hooks may bring the block's weights to the device and change from run to run (pipeline/offload.py). The
        compiled function takes the block as an argument, so it is the same for all blocks, and for copies of one.
        """
        self.computation = torch.compile(Block.compute, *args, **options)

    def forward(
        self,
        video: Tensor,
        text: Tensor,
        temb: Tensor,
        rotary: Rotary | None,
        attention: AttentionFn,
        packing: Packing | None = None,
    ) -> tuple[Tensor, Tensor]:
        """One block.

        Args:
            video, text: [B, N, D] and [B, L, D]; with `packing`, packed rows [1, all N, D] and [1, all L, D].
            temb: [B, time_embed_dim], or [B] as `CogVideoXTransformer3D.embed_time` gives it.
            rotary: (cos, sin), each [L + N, head_dim / 2]; None where the model has no rotary positions.
        Returns: video and text, of the same shapes.
        """
        return self.computation(self, video, text, temb, rotary, attention, packing)

    def compute(
        self,
        video: Tensor,
        text: Tensor,
        temb: Tensor,
        rotary: Rotary | None,
        attention: AttentionFn,
        packing: Packing | None = None,
    ) -> tuple[Tensor, Tensor]:
        """What `forward` does, not compiled: video [B, N, D] and text [B, L, D] in and out."""
        tokens, modulation = self.norm1(text, video, temb, packing)
        text, video = gated(text, video, self.attn1(tokens, rotary, attention), modulation, packing)
        tokens, modulation = self.norm2(text, video, temb, packing)
        text, video = gated(text, video, self.ff(tokens), modulation, packing)
        return video, text


class PatchEmbed(nn.Module):
    """Latents and text embeddings to tokens, plus the additive position table where the model has one.

    The 1.0 family folds 2 x 2 patches with a Conv2d, 1.5 folds 2 x 2 x 2 cells with a Linear.
    """

    pos_embedding: Tensor

    def __init__(self, config: TransformerConfig, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.config = config
        if config.patch_size_t is None:
            patch = config.patch_size
            self.proj = operations.Conv2d(config.in_channels, config.width, patch, stride=patch, **factory)
        else:
            features = config.in_channels * config.patch_size_t * config.patch_size**2
            self.proj = operations.Linear(features, config.width, **factory)
        self.text_proj = operations.Linear(config.text_embed_dim, config.width, **factory)
        if config.use_learned_positional_embeddings:
            self.register_buffer("pos_embedding", torch.zeros(1, config.position_rows, config.width, **factory))

    def forward(
        self, latents: Tensor, prompt_embeds: Tensor, grid: Grid, position_table: PositionTable = "trained"
    ) -> tuple[Tensor, Tensor]:
        """latents [B, C, T, H, W], prompt_embeds [B, L, text_embed_dim] -> video [B, N, D], text [B, L, D]."""
        text = self.text_proj(prompt_embeds)
        video = self._fold(latents, grid)
        config = self.config
        if config.use_learned_positional_embeddings:
            if position_table == "omitted":
                return video, text
            table = self.pos_embedding.to(device=video.device, dtype=video.dtype)
            text = text + table[:, : config.max_text_seq_length]
            video = video + table_at(table, grid, config)
        elif not config.use_rotary_positional_embeddings:
            video = video + sincos_table(grid, config, video.device, video.dtype)
        return video, text

    def _fold(self, latents: Tensor, grid: Grid) -> Tensor:
        batch, channels, frames = latents.shape[:3]
        patch, patch_t = self.config.patch_size, self.config.patch_size_t
        if patch_t is None:
            tokens = self.proj(latents.transpose(1, 2).flatten(0, 1))  # (B * T, D, h, w)
            return tokens.flatten(2).transpose(1, 2).reshape(batch, frames * grid[1] * grid[2], -1)
        cells = latents.reshape(batch, channels, grid[0], patch_t, grid[1], patch, grid[2], patch)
        return self.proj(cells.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(batch, math.prod(grid), -1))


class TimestepMLP(nn.Module):
    """Linear, SiLU, Linear."""

    def __init__(self, width: int, embed_dim: int, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.linear_1 = operations.Linear(width, embed_dim, **factory)
        self.linear_2 = operations.Linear(embed_dim, embed_dim, **factory)

    def forward(self, code: Tensor) -> Tensor:
        """[B, width] -> [B, embed_dim]."""
        return self.linear_2(F.silu(self.linear_1(code)))


class CogVideoXTransformer3D(nn.Module):
    """Predicts v from noisy latents, a prompt and a timestep.

    Args:
        config: shape of the model.
        dtype, device: of the weights (device "meta" allocates nothing).
        operations: namespace with Linear, Conv2d and LayerNorm; those of layers.py, or a host's.
        variant: the released model this is one of; None for a shape of one's own.
    Source: diffusers `CogVideoXTransformer3DModel`, arXiv 2408.06072 section 2.2.
    """

    def __init__(
        self,
        config: TransformerConfig,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        operations: Any = layers,
        variant: Variant | None = None,
    ) -> None:
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.config = config
        self.variant = variant
        self.tabulated_timesteps: Tensor | None = None
        self.kept_rotary: dict[Any, Rotary] | None = None
        self.patch_embed = PatchEmbed(config, operations, **factory)
        self.time_embedding = TimestepMLP(config.width, config.time_embed_dim, operations, **factory)
        if config.ofs_embed_dim is not None:
            self.ofs_embedding = TimestepMLP(config.ofs_embed_dim, config.ofs_embed_dim, operations, **factory)
        self.transformer_blocks = nn.ModuleList(Block(config, operations, **factory) for _ in range(config.num_layers))
        self.norm_final = operations.LayerNorm(config.width, eps=config.norm_eps, **factory)
        self.norm_out = FinalLayerNorm(config, operations, **factory)
        self.proj_out = operations.Linear(config.width, config.patch_features, **factory)

    def forward(
        self,
        latents: Tensor,
        prompt_embeds: Tensor,
        timestep: Tensor,
        ofs: Tensor | None = None,
        *,
        attention: AttentionFn = sdpa,
        positions: Positions = AS_TRAINED,
    ) -> Tensor:
        """Predicted v.

        Args:
            latents: [B, in_channels, T, H, W], noisy latents, image latents behind them for image-to-video.
            prompt_embeds: [B, L, text_embed_dim].
            timestep: [B], 0 to 999.
            ofs: [B] or [1]; None means 2.0 where the model has an offset, and is ignored where it has none.
            positions: changes to them.
        Returns: [B, out_channels, T, H, W] in the dtype of latents.
        Raises: ValueError if a shape does not fit the model.
        """
        grid = self.token_grid(latents, prompt_embeds, positions.table)
        temb = self.embed_time(timestep, ofs, latents)
        video, text = self.patch_embed(latents, prompt_embeds, grid, positions.table)
        rotary = self.rotary(grid, text.shape[1], latents.device, positions.axes)
        for index in range(len(self.transformer_blocks)):
            video, text = self.run_block(index, video, text, temb, rotary, attention)
        tokens = self.proj_out(self.norm_out(self.norm_final(video), temb))
        return unpatchify(tokens, grid, self.config)

    def rotary(
        self, grid: Grid, text_length: int, device: torch.device, axes: RotaryAxes = TRAINED_AXES
    ) -> Rotary | None:
        """Cosines and sines [text_length + T * H * W, head_dim / 2] of `rotary_table`; None where the model has none.

        Within a run (`adaln_table.tabulated`) a table is made once, and is gone afterwards.
        """
        if not self.config.use_rotary_positional_embeddings:
            return None
        key = (grid, text_length, device, axes)
        kept = self.kept_rotary
        if kept is not None and key in kept:
            return kept[key]
        table = rotary_table(grid, self.config, device, text_length, axes)
        if kept is not None:
            kept.clear()
            kept[key] = table
        return table

    def run_block(
        self,
        index: int,
        video: Tensor,
        text: Tensor,
        temb: Tensor,
        rotary: Rotary | None,
        attention: AttentionFn,
    ) -> tuple[Tensor, Tensor]:
        """Run block `index`: video [B, N, D] and text [B, L, D] in and out. A host overrides this to wrap or replace
        single blocks."""
        return self.transformer_blocks[index](video, text, temb, rotary, attention)

    def embed_time(self, timestep: Tensor, ofs: Tensor | None, latents: Tensor) -> Tensor:
        """What the adaptive norms take: silu(temb) [B, time_embed_dim], in the dtype of latents.

        Where they have tables (adaln_table.py), it is the index [B] of each timestep in them.
        """
        if self.tabulated_timesteps is not None:
            return torch.searchsorted(self.tabulated_timesteps, timestep)
        return F.silu(self.time_vector(timestep, ofs, latents))

    def time_vector(self, timestep: Tensor, ofs: Tensor | None, latents: Tensor) -> Tensor:
        """temb [B, time_embed_dim] of timesteps [B], in the dtype of latents."""
        temb = self.time_embedding(timestep_embedding(timestep, self.config.width).to(latents.dtype))
        if self.config.ofs_embed_dim is not None:
            ofs = torch.full((1,), OFS, device=latents.device) if ofs is None else ofs.to(latents.device)
            temb = temb + self.ofs_embedding(timestep_embedding(ofs, self.config.ofs_embed_dim).to(latents.dtype))
        return temb

    def token_grid(self, latents: Tensor, prompt_embeds: Tensor, position_table: PositionTable = "trained") -> Grid:
        """(T, H, W) in tokens, after checking that latents [B, C, T, H, W] and prompt_embeds [B, L, D] fit."""
        config = self.config
        if latents.ndim != 5 or latents.shape[1] != config.in_channels:
            raise ValueError(
                f"latents have shape {tuple(latents.shape)}; this model takes [B, {config.in_channels}, T, H, W]"
            )
        if prompt_embeds.shape[-1] != config.text_embed_dim:
            raise ValueError(
                f"prompt_embeds are {prompt_embeds.shape[-1]} wide; this model takes {config.text_embed_dim}; "
                "encode the prompt with the text encoder that belongs to it"
            )
        frames, height, width = latents.shape[2:]
        if frames % config.frame_patch or height % config.patch_size or width % config.patch_size:
            raise ValueError(
                f"latents of {frames} x {height} x {width} (frames x rows x columns) do not divide into patches of "
                f"{config.frame_patch} x {config.patch_size} x {config.patch_size}"
            )
        grid = (frames // config.frame_patch, height // config.patch_size, width // config.patch_size)
        if config.use_learned_positional_embeddings and position_table != "omitted":
            self._check_table(grid, prompt_embeds.shape[1], position_table)
        return grid

    def _check_table(self, grid: Grid, text_length: int, position_table: PositionTable) -> None:
        config = self.config
        covered = grid[1:] == config.training_grid[1:] and grid[0] <= config.table_latent_frames
        if position_table == "trained" and not covered:
            raise ValueError(
                f"latents of {grid[0]} x {grid[1] * config.patch_size} x {grid[2] * config.patch_size}; the learned "
                f"position table of this model covers up to {config.table_latent_frames} frames of "
                f"{config.sample_height} x {config.sample_width} only: have it interpolated or omitted"
            )
        if text_length != config.max_text_seq_length:
            raise ValueError(
                f"prompt_embeds hold {text_length} tokens; the learned position table of this model takes exactly "
                f"{config.max_text_seq_length}"
            )


def unpatchify(tokens: Tensor, grid: Grid, config: TransformerConfig) -> Tensor:
    """Fold video tokens back into latents.

    Args: tokens: [B, N, C * p_t * p * p], values ordered (c, p_t, p, p). grid: (T, H, W) in tokens.
    Returns: [B, C, T * p_t, H * p, W * p].
    """
    patch, patch_t = config.patch_size, config.frame_patch
    cells = tokens.unflatten(1, grid).unflatten(-1, (config.out_channels, patch_t, patch, patch))
    frames, rows, columns = grid
    return cells.permute(0, 4, 1, 5, 2, 6, 3, 7).reshape(
        tokens.shape[0], config.out_channels, frames * patch_t, rows * patch, columns * patch
    )
