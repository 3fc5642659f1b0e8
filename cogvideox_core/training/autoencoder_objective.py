"""The VAE stage: reconstruction and KL, no pretrained network in the loss; short clips first, longer ones later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..weights.save_diffusers import write_vae
from .clips import ClipSource
from .objective import Objective, seeded_generator, seeded_random
from .recipe import AutoencoderRecipe, Phase

if TYPE_CHECKING:  # the VAE is given
    from ..models.vae.autoencoder import AutoencoderCausal3D

_WINDOWS = 3  # that are cut out of a larger clip, to take the one that shows most
_MEASURED_CLIPS = 16  # that the deviations of latent channels are measured on


class AutoencoderObjective(Objective):
    """Trains a VAE on windows of clips.

    Args:
        vae: the model, in training precision.
        clips: where clips come from.
        recipe: sizes of clips over time, zooms, weights of the terms of the loss, seed.
        dtype: of the exported weights.
    """

    def __init__(
        self,
        vae: AutoencoderCausal3D,
        clips: ClipSource,
        recipe: AutoencoderRecipe,
        *,
        dtype: torch.dtype = torch.float16,
    ) -> None:
        super().__init__()
        self.vae = vae
        self.clips = clips
        self.recipe = recipe
        self.seed = recipe.optimisation.seed
        self.dtype = dtype

    def batch(self, step: int, slots: range, batch_size: int) -> tuple[Tensor, Tensor]:
        """Video [B, 3, F, H, W] in [-1, 1], and normal noise [B, C, T, h, w] to sample the posterior with."""
        phase = next(phase for phase in self.recipe.phases if step < phase.until)
        frames = 1 if seeded_random(self.seed, step).random() < phase.still else phase.num_frames
        windows = [self._window(step, slot, frames, phase) for slot in slots]
        shape = self._latent_shape(frames, phase)
        noise = [torch.randn(shape, generator=seeded_generator(self.seed, step, slot)) for slot in slots]
        return torch.stack(windows) * 2 - 1, torch.stack(noise)

    def _latent_shape(self, frames: int, phase: Phase) -> tuple[int, int, int, int]:
        """(C, T, h, w) of the latents of a window."""
        config = self.vae.config
        ratio = config.spatial_compression_ratio
        latent_frames = (frames - 1) // config.temporal_compression_ratio + 1
        return config.latent_channels, latent_frames, phase.height // ratio, phase.width // ratio

    def _window(self, step: int, slot: int, frames: int, phase: Phase) -> Tensor:
        """A window [3, F, H, W] in [0, 1] of a new clip: of a few, the one with the largest variance."""
        draw = seeded_random(self.seed, step, slot)
        zoom = draw.choice(self.recipe.zooms)
        video = self.clips.video(draw.getrandbits(62), phase.num_frames, zoom * phase.height, zoom * phase.width)
        windows = []
        for _ in range(_WINDOWS if zoom > 1 else 1):
            top = draw.randint(0, video.shape[2] - phase.height)
            left = draw.randint(0, video.shape[3] - phase.width)
            first = draw.randint(0, video.shape[1] - frames)
            windows.append(video[:, first : first + frames, top : top + phase.height, left : left + phase.width])
        return max(windows, key=lambda window: float(window.var()))

    def forward(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """The losses of a batch of video [B, 3, F, H, W] and noise [B, C, T, h, w], and the PSNR in dB; scalars."""
        device = next(self.parameters()).device
        video, noise = (part.to(device) for part in batch)
        posterior = self.vae.encode(video)
        decoded = self.vae.decode(posterior.mean + torch.exp(0.5 * posterior.logvar) * noise)
        squared = (decoded - video).square().mean()
        kl = 0.5 * (posterior.mean.square() + posterior.logvar.exp() - 1 - posterior.logvar).mean()
        weights = self.recipe.weights
        loss = (
            weights.absolute * (decoded - video).abs().mean()
            + weights.squared * squared
            + weights.edges * (_edges(decoded) - _edges(video)).abs().mean()
            + weights.kl * kl
        )
        return {"loss": loss, "psnr": -10 * torch.log10(squared / 4), "kl": kl}  # 4: the square of the range, -1 to 1

    @torch.no_grad()
    def export(self, folder: Path) -> None:
        """The `vae` folder; over new clips, every channel of its latents has a standard deviation of 1."""
        tensors = rescale_channels(self.vae.state_dict(), 1 / self._deviations())
        write_vae(tensors, replace(self.vae.config, scaling_factor=1.0), folder / "vae", self.dtype)

    def _deviations(self) -> Tensor:
        """[C]: standard deviation of each latent channel."""
        phase = self.recipe.phases[-1]
        device = next(self.parameters()).device
        draw = seeded_random(self.seed, -1)
        means = []
        for _ in range(_MEASURED_CLIPS):
            video = self.clips.video(draw.getrandbits(62), phase.num_frames, phase.height, phase.width)
            means.append(self.vae.encode(video[None].to(device) * 2 - 1).mean)
        return torch.cat(means).transpose(0, 1).flatten(1).std(dim=1)


def rescale_channels(tensors: Mapping[str, Tensor], factors: Tensor) -> dict[str, Tensor]:
    """The weights of a VAE that is the same but for its latents, whose channels are `factors` [C] times larger.

    A diffusion model sees all channels through noise of one strength. Where channels differ in size, the small ones
    vanish in the noise; in our VAE those were the channels that hold the outlines of objects.

    The encoder's last layer gets the factors, and everything that reads latents (the decoder's first layer, the
    modulations of its spatial norms) their inverses.
    """
    scaled = dict(tensors)
    for name, tensor in tensors.items():
        module, _, kind = name.rpartition(".")
        if module == "encoder.conv_out.conv":  # rows: means, then logarithms of variances
            rows = torch.cat([factors, torch.ones_like(factors)]).view(-1, *[1] * (tensor.ndim - 1))
            scaled[name] = tensor * rows
            if kind == "bias":  # log(f^2 variance) = 2 log f + log(variance)
                scaled[name] = scaled[name] + torch.cat([torch.zeros_like(factors), 2 * factors.log()])
        elif kind == "weight" and module.endswith(("decoder.conv_in.conv", ".conv_y.conv", ".conv_b.conv")):
            scaled[name] = tensor / factors.view(1, -1, *[1] * (tensor.ndim - 2))
    return scaled


def _edges(video: Tensor) -> Tensor:
    """Differences along rows and columns, [B, 3, F, H-1, 2 (W-1)]: what a blurred picture lacks."""
    corner = video[..., :-1, :-1]
    return torch.cat([video[..., 1:, :-1] - corner, video[..., :-1, 1:] - corner], dim=-1)
