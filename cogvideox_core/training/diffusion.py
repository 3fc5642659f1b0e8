"""The diffusion stages: v-prediction over packed clips of all lengths, images among them as clips of one frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import Linear
from torch.nn import functional as F

from ..models.shapes import LatentSize
from ..models.transformer.model import CogVideoXTransformer3D, ExpertLayerNorm
from ..pipeline.conditioning import image_latents, pad_leading
from ..sampling.noise_schedule import NoiseSchedule
from .clips import ClipSource
from .frame_pack import Bundle, packed_forward
from .latents import Bucket, EncodedBucket, LatentClip
from .loop import Objective, chance, noise_generator
from .timesteps import EVERYWHERE, Focus, explicit_uniform, independent

Timesteps = Literal["explicit_uniform", "independent"]
_TIMESTEPS: dict[str, Callable[..., list[int]]] = {"explicit_uniform": explicit_uniform, "independent": independent}


@dataclass(frozen=True)
class Dropout:
    """How often a condition is left out: the prompt, the first image; and how often a last image is given."""

    text: float = 0.1
    image: float = 0.05
    last_image: float = 0.25


@dataclass(frozen=True)
class Questions:
    """What video tokens are asked half way, beside the diffusion loss: `ClipSource.token_questions`.

    Args: after_block: how many blocks the tokens have passed. weight: of the cross entropy; 0 asks nothing.
    """

    after_block: int = 0
    weight: float = 0.0


NOTHING_ASKED = Questions()


class Group(NamedTuple):
    """Clips of one shape in a batch, ready for the model; `target` is v, `answers` is [b, Q, tokens]."""

    latents: Tensor
    tokens: Tensor
    timestep: Tensor
    target: Tensor
    answers: Tensor


class DiffusionObjective(Objective):
    """Trains a transformer, and with it a text encoder if there is one to train.

    Args:
        transformer, text_encoder: in training precision; the text encoder is transformers'.
        tokenize: prompts to token ids [b, L].
        clips: captions by clip number; the videos are those of `buckets`.
        buckets: encoded clips, with the share each has of a batch.
        schedule: noise levels.
        scale, image_scale: what z is multiplied with to become latents, and image latents.
        questions: what the tokens are asked half way, so that they learn to tell where things are. A loss on pixels
            alone teaches that slowly; what gives the answers is not part of the model.
        recompute: keep no activations inside blocks and compute them again in the backward pass (large models).
        write: writes the modules as they are, in the official layout.
    Raises: ValueError if questions are asked of clips that come without answers.
    """

    def __init__(
        self,
        transformer: CogVideoXTransformer3D,
        text_encoder: nn.Module,
        tokenize: Callable[[Sequence[str]], Tensor],
        clips: ClipSource,
        buckets: Sequence[tuple[EncodedBucket, float]],
        schedule: NoiseSchedule,
        *,
        scale: float,
        image_scale: float | None = None,
        dropout: Dropout = Dropout(),  # noqa: B008 -- frozen
        timesteps: Timesteps = "explicit_uniform",
        focus: Focus = EVERYWHERE,
        questions: Questions = NOTHING_ASKED,
        seed: int = 0,
        recompute: bool = False,
        write: Callable[[Path], None] | None = None,
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.text_encoder = text_encoder
        self.tokenize = tokenize
        self.clips = clips
        self.buckets = buckets
        self.schedule = schedule
        self.scale = scale
        self.image_scale = scale if image_scale is None else image_scale
        self.dropout = dropout
        self.timesteps = partial(_TIMESTEPS[timesteps], seed=seed, focus=focus)
        self.questions = questions
        if questions.weight and not clips.token_questions:
            raise ValueError(f"{type(clips).__name__} know nothing that tokens could be asked; leave out questions")
        layers = len(transformer.transformer_blocks)
        if questions.weight and not 1 <= questions.after_block <= layers:
            raise ValueError(f"questions after block {questions.after_block} of {layers}; take one from 1 to {layers}")
        self.choices = list(clips.token_questions.values()) if questions.weight else []
        self.answer = Linear(transformer.config.width, sum(self.choices)) if self.choices else None
        self.seed = seed
        self.recompute = recompute
        self.write = write

    def batch(self, step: int, slots: range, batch_size: int) -> list[Group]:
        """The clips of `slots`, bucket by bucket."""
        timesteps = dict(zip(slots, self.timesteps(step, slots, batch_size), strict=True))
        groups = []
        start, share_before = 0, 0.0
        for bucket, share in self.buckets:
            share_before += share
            end = round(share_before * batch_size)
            places = range(max(start, slots.start), min(end, slots.stop))
            start = end
            if places:
                groups.append(self._group(step, places, bucket, [timesteps[slot] for slot in places]))
        return groups

    def _group(self, step: int, places: range, bucket: EncodedBucket, timesteps: list[int]) -> Group:
        latents, targets, prompts, answers = [], [], [], []
        for slot, timestep in zip(places, timesteps, strict=True):
            draw = chance(self.seed, step, slot, 1)
            index = draw.randrange(bucket.bucket.count)
            clip = bucket[index]
            generator = noise_generator(self.seed, step, slot, 2)
            sample = clip.mean + clip.deviation * torch.randn(clip.mean.shape, generator=generator)
            sample = pad_leading(sample[None] * self.scale, self._leading(sample.shape[1]))[0]
            noise = torch.randn(sample.shape, generator=generator)
            alpha = self.schedule.alpha(timestep)
            noisy = alpha**0.5 * sample + (1 - alpha) ** 0.5 * noise
            targets.append(alpha**0.5 * noise - (1 - alpha) ** 0.5 * sample)
            if self.transformer.config.image_channels:
                noisy = torch.cat([noisy, self._image_condition(clip, draw)])
            latents.append(noisy)
            number = bucket.bucket.first + index
            dropped = draw.random() < self.dropout.text
            caption = self.clips.caption(number, draw.getrandbits(62), bucket.bucket.num_frames)
            prompts.append("" if dropped else caption)
            answers.append(self._answers(number, bucket.bucket, sample.shape))
        return Group(
            torch.stack(latents),
            self.tokenize(prompts),
            torch.tensor(timesteps),
            torch.stack(targets),
            torch.stack(answers),
        )

    def _answers(self, number: int, bucket: Bucket, shape: torch.Size) -> Tensor:
        """[Q, tokens]; Q is 0 if nothing is asked."""
        if self.answer is None:
            return torch.empty(0, 0, dtype=torch.int64)
        config = self.transformer.config
        grid = (shape[1] // config.frame_patch, shape[2] // config.patch_size, shape[3] // config.patch_size)
        return self.clips.token_answers(number, bucket.num_frames, bucket.height, bucket.width, grid).flatten(1)

    def _image_condition(self, clip: LatentClip, draw: Any) -> Tensor:
        """[C, T, h, w]: the first image's latents, now and then the last one's too, now and then nothing."""
        frames, height, width = clip.mean.shape[1:]
        leading = self._leading(frames)
        size = LatentSize(frames + leading, height, width, leading)
        with_last = draw.random() < self.dropout.last_image and frames > 1
        condition = image_latents(clip.first[None], clip.last[None] if with_last else None, size)[0] * self.image_scale
        return torch.zeros_like(condition) if draw.random() < self.dropout.image else condition

    def _leading(self, frames: int) -> int:
        """Latent frames put in front so that frames fill whole patches."""
        return -frames % self.transformer.config.frame_patch

    def forward(self, batch: list[Group]) -> dict[str, Tensor]:
        """The mean over clips of each clip's mean squared error; and how the questions were answered."""
        device = next(self.transformer.parameters()).device
        groups = [Group(*(part.to(device) for part in group)) for group in batch]
        bundles = [Bundle(group.latents, self.text_encoder(group.tokens)[0], group.timestep) for group in groups]
        packed = packed_forward(
            self.transformer, bundles, recompute=self.recompute, half_way=self.questions.after_block
        )
        errors = [
            (prediction - group.target).square().flatten(1).mean(1)
            for prediction, group in zip(packed.predictions, groups, strict=True)
        ]
        diffusion = torch.cat(errors).mean()
        if self.answer is None:
            return {"loss": diffusion}
        entropy = self._entropy(self.answer, packed.tokens, [group.answers for group in groups])
        return {"loss": diffusion + self.questions.weight * entropy, "diffusion": diffusion, "entropy": entropy}

    def _entropy(self, answer: nn.Linear, tokens: list[Tensor], answers: list[Tensor]) -> Tensor:
        """The cross entropy of the answers: the mean over questions, tokens of a clip, and clips."""
        clips = []
        for part, right in zip(tokens, answers, strict=True):
            logits = answer(part).float().split(self.choices, dim=-1)  # each [b, tokens, choices]
            losses = [
                F.cross_entropy(choice.transpose(1, 2), column, reduction="none")
                for choice, column in zip(logits, right.unbind(1), strict=True)
            ]
            clips.append(torch.stack(losses, dim=1).flatten(1).mean(1))
        return torch.cat(clips).mean()

    def compile_blocks(self) -> None:
        """Every batch has the same shapes, so each block is compiled for them."""
        for block in self.transformer.transformer_blocks:
            block.compile(dynamic=False)

    def export(self, folder: Path) -> None:
        """What `write` writes: the whole official layout."""
        assert self.write is not None
        self.write(folder)


def zero_initialize(transformer: CogVideoXTransformer3D) -> None:
    """Start a new transformer as the identity: no gate open, no output (adaLN-Zero, arXiv 2212.09748)."""
    linears: list[Any] = [module.linear for module in transformer.modules() if isinstance(module, ExpertLayerNorm)]
    for linear in [*linears, transformer.proj_out]:
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
