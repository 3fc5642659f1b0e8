"""The text stage: a new text encoder learns what captions say, before any picture is shown.

CogVideoX starts from a T5 that has read the web. A text encoder that starts from nothing and learns from the diffusion
loss alone takes hours to tell a ring from a square: few pixels depend on that word. Here it answers questions about
the scene behind a caption (which colour is the ball, how does it move, what is behind it), and every token has to give
every answer, padding too. So the transformer finds the whole description wherever it looks, however long the prompt is
padded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import Linear
from torch.nn import functional as F

from .clips import ClipSource
from .loop import Objective, chance

_STILL = 0.2  # share of captions that speak of a single frame
_CAPTIONED_FRAMES = 17  # any number above 1 makes a caption speak of motion
_SCENES = 2**40


class TextObjective(Objective):
    """Trains a text encoder to answer `clips.questions`.

    Args:
        text_encoder: transformers' T5EncoderModel, in training precision.
        tokenize: prompts and a length to token ids [B, length].
        clips: captions, questions and answers by clip number.
        lengths: of padded prompts; a step draws one, the shorter the likelier.
        dropout: share of empty prompts, which then stand for no scene in particular.
        write: writes the text encoder as it is, in the official layout.
    Raises: ValueError if the clips come without questions.
    """

    def __init__(
        self,
        text_encoder: nn.Module,
        tokenize: Callable[[Sequence[str], int], Tensor],
        clips: ClipSource,
        *,
        lengths: Sequence[int],
        dropout: float,
        seed: int,
        write: Callable[[Path], None],
    ) -> None:
        super().__init__()
        if not clips.questions:
            raise ValueError(
                f"{type(clips).__name__} know no answers to learn from; start from a model with a text encoder, or let "
                "a diffusion stage train one (train_text_encoder)"
            )
        self.text_encoder = text_encoder
        self.tokenize = tokenize
        self.clips = clips
        self.lengths = tuple(lengths)
        self.dropout = dropout
        self.seed = seed
        self.write = write
        self.choices = [len(answers) for answers in clips.questions.values()]
        width: int = text_encoder.config.d_model  # type: ignore[assignment, union-attr]
        self.answer = Linear(width, sum(self.choices))

    def batch(self, step: int, slots: range, batch_size: int) -> tuple[Tensor, Tensor]:
        """Token ids [B, L], and the number of the right answer to each question [B, Q]."""
        weights = [1 / length for length in self.lengths]
        length = chance(self.seed, step).choices(self.lengths, weights)[0]
        prompts, answers = [], []
        for slot in slots:
            draw = chance(self.seed, step, slot)
            index, still = draw.randrange(_SCENES), draw.random() < _STILL
            caption = self.clips.caption(index, draw.getrandbits(62), 1 if still else _CAPTIONED_FRAMES)
            prompts.append("" if draw.random() < self.dropout else caption)
            known = self.clips.answers(index)
            answers.append([choices.index(known[name]) for name, choices in self.clips.questions.items()])
        return self.tokenize(prompts, length), torch.tensor(answers)

    def forward(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """The mean over questions of the cross entropy; and the share of right answers, tokens voting."""
        device = self.answer.weight.device
        tokens, answers = (part.to(device) for part in batch)
        logits = self.answer(self.text_encoder(tokens)[0]).float()  # [B, L, all choices]
        losses, right = [], []
        for part, answer in zip(logits.split(self.choices, dim=-1), answers.T, strict=True):
            losses.append(F.cross_entropy(part.transpose(1, 2), answer[:, None].expand(part.shape[:2])))
            right.append((part.mean(dim=1).argmax(dim=-1) == answer).float().mean())
        return {"loss": torch.stack(losses).mean(), "right": torch.stack(right).mean()}

    def export(self, folder: Path) -> None:
        """Text encoder and tokenizer; what gave the answers is left out."""
        self.write(folder)
