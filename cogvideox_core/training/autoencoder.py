"""The VAE stage: reconstruction and KL, no pretrained network in the loss; short clips first, longer ones later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ..models.vae.autoencoder import AutoencoderCausal3D
from ..models.vae.blocks import ResnetBlock3D, SpatialNorm3D
from ..weights.save_diffusers import write_vae
from .clips import ClipSource
from .loop import Objective, chance, noise_generator


@dataclass(frozen=True)
class Phase:
    """Until step `until`, clips are this large. `still` of the steps show single frames instead, as many as fit."""

    until: int
    num_frames: int
    height: int
    width: int
    still: float = 0.2


@dataclass(frozen=True)
class ReconstructionWeights:
    """What each term of the loss counts; the KL term is a mean over latent values."""

    absolute: float = 1.0
    squared: float = 4.0
    edges: float = 1.0
    kl: float = 1e-4


_TRIES = 3


class AutoencoderObjective(Objective):
    """Trains a VAE on windows of clips.

    Args:
        vae: the model, in training precision.
        clips: where clips come from.
        phases: sizes over time, shortest clips first.
        zooms: a window is cut out of a clip this many times larger; one is drawn for each clip.
    """

    def __init__(
        self,
        vae: AutoencoderCausal3D,
        clips: ClipSource,
        phases: tuple[Phase, ...],
        *,
        weights: ReconstructionWeights = ReconstructionWeights(),  # noqa: B008 -- frozen
        zooms: tuple[int, ...] = (1, 2),
        seed: int = 0,
        dtype: torch.dtype = torch.float16,
    ) -> None:
        super().__init__()
        self.vae = vae
        self.clips = clips
        self.phases = phases
        self.weights = weights
        self.zooms = zooms
        self.seed = seed
        self.dtype = dtype

    def batch(self, step: int, slots: range, batch_size: int) -> tuple[Tensor, Tensor]:
        """video [B, 3, F, H, W] in [-1, 1], and the noise of the posterior's sample."""
        phase = next(phase for phase in self.phases if step < phase.until)
        frames = 1 if chance(self.seed, step).random() < phase.still else phase.num_frames
        windows = torch.stack([self._window(step, slot, frames, phase) for slot in slots])
        ratio = self.vae.config.spatial_compression_ratio
        latent_frames = (frames - 1) // self.vae.config.temporal_compression_ratio + 1
        shape = (self.vae.config.latent_channels, latent_frames, phase.height // ratio, phase.width // ratio)
        noise = torch.stack([torch.randn(shape, generator=noise_generator(self.seed, step, slot)) for slot in slots])
        return windows * 2 - 1, noise

    def _window(self, step: int, slot: int, frames: int, phase: Phase) -> Tensor:
        """A window [3, F, H, W] of a clip nobody has seen before: of a few, the one that shows most."""
        draw = chance(self.seed, step, slot)
        zoom = draw.choice(self.zooms)
        video = self.clips.video(draw.getrandbits(62), phase.num_frames, zoom * phase.height, zoom * phase.width)
        windows = []
        for _ in range(_TRIES if zoom > 1 else 1):
            top = draw.randint(0, video.shape[2] - phase.height)
            left = draw.randint(0, video.shape[3] - phase.width)
            first = draw.randint(0, video.shape[1] - frames)
            windows.append(video[:, first : first + frames, top : top + phase.height, left : left + phase.width])
        return max(windows, key=lambda window: float(window.var()))

    def forward(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """Losses, and the reconstruction's PSNR in dB."""
        device = next(self.parameters()).device
        video, noise = (part.to(device) for part in batch)
        posterior = self.vae.encode(video)
        decoded = self.vae.decode(posterior.mean + torch.exp(0.5 * posterior.logvar) * noise)
        squared = (decoded - video).square().mean()
        kl = 0.5 * (posterior.mean.square() + posterior.logvar.exp() - 1 - posterior.logvar).mean()
        weights = self.weights
        loss = (
            weights.absolute * (decoded - video).abs().mean()
            + weights.squared * squared
            + weights.edges * (_edges(decoded) - _edges(video)).abs().mean()
            + weights.kl * kl
        )
        return {"loss": loss, "psnr": -10 * torch.log10(squared / 4), "kl": kl}

    @torch.no_grad()
    def export(self, folder: Path) -> None:
        """The `vae` folder; its latents have a standard deviation of 1 in every channel, over new clips."""
        tensors = rescale_channels(self.vae.state_dict(), 1 / self._deviations())
        write_vae(tensors, replace(self.vae.config, scaling_factor=1.0), folder / "vae", self.dtype)

    def _deviations(self, clips: int = 16) -> Tensor:
        """[C]: standard deviation of each latent channel."""
        phase = self.phases[-1]
        device = next(self.parameters()).device
        draw = chance(self.seed, -1)
        means = []
        for _ in range(clips):
            video = self.clips.video(draw.getrandbits(62), phase.num_frames, phase.height, phase.width)
            means.append(self.vae.encode(video[None].to(device) * 2 - 1).mean)
        return torch.cat(means).transpose(0, 1).flatten(1).std(dim=1)


def rescale_channels(tensors: Mapping[str, Tensor], factors: Tensor) -> dict[str, Tensor]:
    """The weights of a VAE that is the same but for its latents, whose channels are `factors` [C] times larger.

    A diffusion model sees a channel through noise of one strength. Where channels differ in size, the small ones drown
    in it, and with them what they say; in ours that was the shape of things.
    """
    scaled = dict(tensors)
    for name, tensor in tensors.items():
        module, _, kind = name.rpartition(".")
        if module == "encoder.conv_out.conv":  # rows: means, then logarithms of variances
            rows = torch.cat([factors, torch.ones_like(factors)]).view(-1, *[1] * (tensor.ndim - 1))
            scaled[name] = tensor * rows
            if kind == "bias":
                scaled[name] = scaled[name] + torch.cat([torch.zeros_like(factors), 2 * factors.log()])
        elif kind == "weight" and module.endswith(("decoder.conv_in.conv", ".conv_y.conv", ".conv_b.conv")):
            scaled[name] = tensor / factors.view(1, -1, *[1] * (tensor.ndim - 2))
    return scaled


def initialize(vae: AutoencoderCausal3D) -> None:
    """Start a new VAE so that signals neither grow nor fade: residual branches shut, spatial norms plain norms."""
    for module in vae.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d) and module.kernel_size[-1] > 1:
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            nn.init.zeros_(module.bias)  # type: ignore[arg-type] -- these have one
    for module in vae.modules():
        if isinstance(module, ResnetBlock3D):
            nn.init.zeros_(module.conv2.conv.weight)
        if isinstance(module, SpatialNorm3D):
            for conv, bias in ((module.conv_y.conv, 1.0), (module.conv_b.conv, 0.0)):
                nn.init.normal_(conv.weight, std=0.02)
                nn.init.constant_(conv.bias, bias)


def _edges(video: Tensor) -> Tensor:
    """Differences along rows and columns, [B, 3, F, H-1, 2 (W-1)]: what a blurred picture lacks."""
    corner = video[..., :-1, :-1]
    return torch.cat([video[..., 1:, :-1] - corner, video[..., :-1, 1:] - corner], dim=-1)
