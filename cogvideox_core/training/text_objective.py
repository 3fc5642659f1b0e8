"""The text stage: a new text encoder learns what captions say, before any diffusion training.

CogVideoX starts from a T5 that was trained on text from the web. A text encoder that starts from random weights and
learns from the diffusion loss alone takes hours to distinguish a ring from a square: few pixels depend on that word.
Here it answers questions about the scene that a caption describes (which colour is the ball, how does it move, what is
behind it), and it has to give every answer at every token, padding included. So the transformer finds the whole
description at whichever token it attends to, however long the prompt is padded.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import Linear
from torch.nn import functional as F

from .clips import ClipSource
from .objective import Objective, seeded_random
from .recipe import TextRecipe

if TYPE_CHECKING:  # the text model is given
    from .text_model import TextModel

_STILL = 0.2  # share of captions that describe a single frame
_CAPTIONED_FRAMES = 17  # any number above 1 makes a caption speak of motion
_SCENES = 2**40


class TextObjective(Objective):
    """Trains a text encoder to answer `clips.questions`.

    Args:
        text: the text encoder, in training precision, and its tokenizer.
        clips: captions, questions and answers by clip number.
        recipe: lengths of padded prompts, of which a step draws one, short ones more often; the share of empty
            prompts, which describe no scene in particular; the seed.
        write: writes the current modules in the official layout.
    Raises: ValueError if the clips come without questions.
    """

    def __init__(
        self, text: TextModel, clips: ClipSource, recipe: TextRecipe, *, write: Callable[[Path], None]
    ) -> None:
        super().__init__()
        if not clips.questions:
            raise ValueError(
                f"{type(clips).__name__} know no answers to learn from; start from a model with a text encoder, or let "
                "a diffusion stage train one (train_text_encoder)"
            )
        self.text_encoder: nn.Module = text.encoder
        self.tokenize = text.tokenize
        self.clips = clips
        self.recipe = recipe
        self.seed = recipe.optimisation.seed
        self.write = write
        self.choices = [len(answers) for answers in clips.questions.values()]
        self.answer = Linear(text.encoder.config.d_model, sum(self.choices))

    def batch(self, step: int, slots: range, batch_size: int) -> tuple[Tensor, Tensor]:
        """Token ids [B, L], and the index of the right answer to each question [B, Q]."""
        lengths = self.recipe.text_tokens
        length = seeded_random(self.seed, step).choices(lengths, [1 / length for length in lengths])[0]
        prompts, answers = [], []
        for slot in slots:
            draw = seeded_random(self.seed, step, slot)
            index, still = draw.randrange(_SCENES), draw.random() < _STILL
            caption = self.clips.caption(index, draw.getrandbits(62), 1 if still else _CAPTIONED_FRAMES)
            prompts.append("" if draw.random() < self.recipe.dropout else caption)
            answers.append(self._indices(self.clips.answers(index)))
        return self.tokenize(prompts, length), torch.tensor(answers)

    def _indices(self, answers: dict[str, str]) -> list[int]:
        return [choices.index(answers[question]) for question, choices in self.clips.questions.items()]

    def forward(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """For token ids [B, L] and answers [B, Q]: the mean over questions of the cross entropy; and the share of right
        answers, where the logits are means over the tokens. Both are scalars."""
        device = self.answer.weight.device
        tokens, answers = (part.to(device) for part in batch)
        logits = self.answer(self.text_encoder(tokens)[0]).float()  # [B, L, all choices]
        losses, right = [], []
        for part, answer in zip(logits.split(self.choices, dim=-1), answers.T, strict=True):
            losses.append(F.cross_entropy(part.transpose(1, 2), answer[:, None].expand(part.shape[:2])))
            right.append((part.mean(dim=1).argmax(dim=-1) == answer).float().mean())
        return {"loss": torch.stack(losses).mean(), "right": torch.stack(right).mean()}

    def export(self, folder: Path) -> None:
        """Text encoder and tokenizer; the layer that gave the answers is left out."""
        self.write(folder)
