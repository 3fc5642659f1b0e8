"""Prompts to embeddings by transformers' T5 encoder.

No attention mask is given to it: the padding behind a prompt is attended like text, as in training. transformers is
imported where it is used; it brings the tokenizer and the forward pass and never opens a weight file itself.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger("cogvideox")

MAX_LENGTH = 226
"""Tokens of a prompt in every released CogVideoX, the closing one included."""


class TextEncoder:
    """A T5 encoder with its tokenizer.

    Args:
        model: transformers' T5EncoderModel.
        tokenizer: the tokenizer that belongs to it.
        max_length: tokens of every prompt, L: shorter ones are padded, longer ones cut and closed again.
    """

    def __init__(self, model: Any, tokenizer: Any, max_length: int = MAX_LENGTH) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.max_length = max_length

    @property
    def width(self) -> int:
        """D, the width of an embedding."""
        return self.model.config.d_model

    @property
    def dtype(self) -> torch.dtype:
        return self.model.shared.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.model.shared.weight.device

    def to(self, device: torch.device | str) -> TextEncoder:
        """Move the model; its dtype stays."""
        self.model.to(device)
        return self

    @torch.no_grad()
    def __call__(self, prompts: list[str]) -> Tensor:
        """Encode prompts; what does not fit is cut off and named in a warning.

        Returns: [B, L, D] in the encoder's dtype, on its device.
        Raises: FloatingPointError if the embeddings are not finite.
        """
        for prompt in prompts:
            if cut := self.truncated_part(prompt):
                logger.warning(
                    "The prompt has %d tokens and %d fit; this part is cut off: %s",
                    self.count_tokens(prompt),
                    self.max_length,
                    cut,
                )
        tokens = self.tokenizer(
            prompts, padding="max_length", max_length=self.max_length, truncation=True, return_tensors="pt"
        ).input_ids  # [B, L]
        embeds = self.model(tokens.to(self.device))[0].to(self.dtype)
        if not embeds.isfinite().all():
            raise FloatingPointError(
                f"the text encoder's embeddings are not finite in {self.dtype}; load it in bfloat16 or float32"
            )
        return embeds

    def count_tokens(self, text: str) -> int:
        """Tokens of a prompt, the closing one included; `max_length` of them fit."""
        return len(self._tokens(text))

    def truncated_part(self, text: str) -> str:
        """The end of a prompt that does not fit, as the tokenizer spells it; empty when all of it fits."""
        tokens = self._tokens(text)
        # The closing token is kept, so one token less of the text is.
        return self.tokenizer.decode(tokens[self.max_length - 1 : -1]) if len(tokens) > self.max_length else ""

    def _tokens(self, text: str) -> list[int]:
        return self.tokenizer(text, truncation=False, verbose=False).input_ids


def t5_model(config: Mapping[str, Any]) -> Any:
    """transformers' T5EncoderModel of these arguments of T5Config, without memory."""
    T5Config, T5EncoderModel = transformers_classes("T5Config", "T5EncoderModel")
    with torch.device("meta"):
        return T5EncoderModel(T5Config(**config))


def transformers_classes(*names: str) -> tuple[Any, ...]:
    """Classes of transformers. Raises: ImportError, in one sentence, if it is missing or too old."""
    try:
        import transformers

        return tuple(getattr(transformers, name) for name in names)
    except (ImportError, AttributeError) as error:
        raise ImportError(
            f"Prompts need the package transformers, 4.51 or newer ({error}); run: pip install -U transformers"
        ) from error
