"""The diffusion stages: v-prediction over packed clips of all lengths, images among them as clips of one frame."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import Linear
from torch.nn import functional as F

from ..models.shapes import LatentSize
from ..models.transformer.model import CogVideoXTransformer3D
from ..models.variants import VARIANTS
from ..pipeline.conditioning import image_latents, pad_leading
from ..sampling.noise_schedule import NoiseSchedule
from .frame_pack import Bundle, packed_forward
from .latents import EncodedBucket, EncodedClips, LatentClip
from .objective import Objective, seeded_generator, seeded_random
from .recipe import Bucket, DiffusionRecipe
from .timesteps import explicit_uniform, independent

if TYPE_CHECKING:  # the text model is given
    from .text_model import TextModel

_TIMESTEPS: dict[str, Callable[..., list[int]]] = {"explicit_uniform": explicit_uniform, "independent": independent}


class Noised(NamedTuple):
    """A clip with noise: latents and image condition [C, T, h, w], target v [16, T, h, w], answers [Q, tokens]."""

    latents: Tensor
    target: Tensor
    prompt: str
    answers: Tensor


class Group(NamedTuple):
    """Clips of one size in a batch, ready for the model.

    latents [b, C, T, h, w], token ids [b, L], timestep [b], target v [b, 16, T, h, w], answers [b, Q, tokens].
    """

    latents: Tensor
    tokens: Tensor
    timestep: Tensor
    target: Tensor
    answers: Tensor


class DiffusionObjective(Objective):
    """Trains a transformer, and the text encoder too where its weights require gradients.

    Args:
        transformer: in training precision.
        text: the text encoder, in training precision, and its tokenizer.
        clips: encoded clips in buckets, and their captions.
        recipe: the variant, whose noise levels are trained; length of prompts, timesteps, dropout, recomputation, seed;
            and the questions about tokens, which make the tokens learn where things are. A loss on pixels alone teaches
            that slowly. The layer that gives the answers is not part of the model.
        write: writes the current modules in the official layout.
    Raises: ValueError if questions are asked about clips that come without answers, or after a block there is not.
    """

    def __init__(
        self,
        transformer: CogVideoXTransformer3D,
        text: TextModel,
        clips: EncodedClips,
        recipe: DiffusionRecipe,
        *,
        write: Callable[[Path], None],
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.text_encoder: nn.Module = text.encoder
        self.text = text
        self.clips = clips
        self.recipe = recipe
        self.seed = recipe.optimisation.seed
        self.schedule = NoiseSchedule(VARIANTS[recipe.variant].schedule)
        self.choices = self._choices()
        self.answer = Linear(transformer.config.width, sum(self.choices)) if self.choices else None
        self.write = write

    def _choices(self) -> list[int]:
        """How many answers each question about tokens has; none if none is asked."""
        asked = self.recipe.questions
        if not asked.weight:
            return []
        source, layers = self.clips.source, len(self.transformer.transformer_blocks)
        if not source.token_questions:
            raise ValueError(f"{type(source).__name__} know nothing that tokens could be asked; leave out questions")
        if not 1 <= asked.after_block <= layers:
            raise ValueError(f"questions after block {asked.after_block} of {layers}; take one from 1 to {layers}")
        return list(source.token_questions.values())

    def batch(self, step: int, slots: range, batch_size: int) -> list[Group]:
        """The clips of `slots`, one group for each bucket that has some."""
        draw_timesteps = _TIMESTEPS[self.recipe.timesteps]
        drawn = draw_timesteps(step, slots, batch_size, seed=self.seed, focus=self.recipe.focus)
        timesteps = dict(zip(slots, drawn, strict=True))
        groups = []
        for bucket, part in self._shared_out(batch_size):
            own = range(max(part.start, slots.start), min(part.stop, slots.stop))
            if own:
                clips = [self._noised(step, slot, bucket, timesteps[slot]) for slot in own]
                groups.append(self._group(clips, [timesteps[slot] for slot in own]))
        return groups

    def _shared_out(self, batch_size: int) -> Iterator[tuple[EncodedBucket, range]]:
        """Each bucket with its indices in the global batch."""
        start, share = 0, 0.0
        for encoded in self.clips.buckets:
            share += encoded.bucket.share
            end = round(share * batch_size)
            yield encoded, range(start, end)
            start = end

    def _group(self, clips: list[Noised], timesteps: list[int]) -> Group:
        latents, targets, prompts, answers = zip(*clips, strict=True)
        tokens = self.text.tokenize(prompts, self.recipe.text_tokens)
        return Group(torch.stack(latents), tokens, torch.tensor(timesteps), torch.stack(targets), torch.stack(answers))

    def _noised(self, step: int, slot: int, encoded: EncodedBucket, timestep: int) -> Noised:
        """A clip drawn from a bucket, a sample of its posterior, and noise; all by the seed, the step and the slot."""
        draw = seeded_random(self.seed, step, slot, 1)
        generator = seeded_generator(self.seed, step, slot, 2)
        bucket = encoded.bucket
        index = draw.randrange(bucket.count)
        clip = encoded[index]
        sample = clip.mean + clip.deviation * torch.randn(clip.mean.shape, generator=generator)
        sample = pad_leading(sample[None] * self.clips.scale, self._leading(sample.shape[1]))[0]
        noise = torch.randn(sample.shape, generator=generator)
        alpha = self.schedule.alpha(timestep)
        noisy = alpha**0.5 * sample + (1 - alpha) ** 0.5 * noise
        target = alpha**0.5 * noise - (1 - alpha) ** 0.5 * sample
        if self.transformer.config.image_channels:
            noisy = torch.cat([noisy, self._image_condition(clip, draw)])
        number = bucket.first + index
        is_dropped = draw.random() < self.recipe.dropout.text
        caption = self.clips.source.caption(number, draw.getrandbits(62), bucket.num_frames)
        return Noised(noisy, target, "" if is_dropped else caption, self._answers(number, bucket, sample.shape))

    def _answers(self, number: int, bucket: Bucket, shape: torch.Size) -> Tensor:
        """[Q, tokens] for a clip of latents of this shape; Q is 0 if nothing is asked."""
        if self.answer is None:
            return torch.empty(0, 0, dtype=torch.int64)
        config = self.transformer.config
        grid = (shape[1] // config.frame_patch, shape[2] // config.patch_size, shape[3] // config.patch_size)
        size = (bucket.num_frames, bucket.height, bucket.width)
        return self.clips.source.token_answers(number, *size, grid).flatten(1)

    def _image_condition(self, clip: LatentClip, draw: random.Random) -> Tensor:
        """[C, T, h, w]: the first image's latents, sometimes the last one's too, sometimes zeros."""
        frames, height, width = clip.mean.shape[1:]
        leading = self._leading(frames)
        size = LatentSize(frames + leading, height, width, leading)
        with_last = draw.random() < self.recipe.dropout.last_image and frames > 1
        latents = image_latents(clip.first[None], clip.last[None] if with_last else None, size)[0]
        condition = latents * self.clips.image_scale
        return torch.zeros_like(condition) if draw.random() < self.recipe.dropout.image else condition

    def _leading(self, frames: int) -> int:
        """Latent frames put in front so that frames fill whole patches."""
        return -frames % self.transformer.config.frame_patch

    def forward(self, batch: list[Group]) -> dict[str, Tensor]:
        """The mean over clips of each clip's mean squared error of v [16, T, h, w]; and the losses of the answers
        [Q, tokens]. All are scalars."""
        device = next(self.transformer.parameters()).device
        groups = [_moved(group, device) for group in batch]
        bundles = [Bundle(group.latents, self.text_encoder(group.tokens)[0], group.timestep) for group in groups]
        asked = self.recipe.questions
        packed = packed_forward(
            self.transformer, bundles, recompute=self.recipe.recompute, tokens_after=asked.after_block
        )
        errors = [
            (prediction - group.target).square().flatten(1).mean(1)
            for prediction, group in zip(packed.predictions, groups, strict=True)
        ]
        diffusion = torch.cat(errors).mean()
        if self.answer is None:
            return {"loss": diffusion}
        entropy = self._entropy(self.answer, packed.tokens, [group.answers for group in groups])
        return {"loss": diffusion + asked.weight * entropy, "diffusion": diffusion, "entropy": entropy}

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
        """The whole official layout, or a LoRA's file: what `write` writes."""
        self.write(folder)


def _moved(group: Group, device: Any) -> Group:
    return Group(*(part.to(device) for part in group))
