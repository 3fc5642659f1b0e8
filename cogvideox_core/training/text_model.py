"""A text encoder with its tokenizer, as training holds them: new ones, or those of a model folder."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..weights.save_diffusers import write_text_encoder
from ..weights.t5 import load_text_encoder, load_tokenizer
from .clips import ClipSource
from .tokenizer import train_tokenizer

_SENTENCES = 20_000  # captions that a tokenizer is trained on
_CAPTIONED_FRAMES = 17  # any number above 1 makes a caption speak of motion


class TextModel(NamedTuple):
    """`encoder` is transformers' T5EncoderModel, in training precision; `folder` holds the files of the tokenizer."""

    encoder: Any
    tokenizer: Any
    folder: Path

    def tokenize(self, prompts: Sequence[str], length: int) -> Tensor:
        """Token ids [B, L] of prompts, padded or cut to `length`."""
        options = dict(padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        return self.tokenizer(list(prompts), **options).input_ids

    def write(self, folder: Path, dtype: torch.dtype) -> None:
        """The folders `text_encoder` and `tokenizer` of the official layout."""
        write_text_encoder(self.encoder, folder / "text_encoder", dtype)
        shutil.copytree(self.folder, folder / "tokenizer", dirs_exist_ok=True)


def load_text_model(model: Path) -> TextModel:
    """Text encoder and tokenizer of a model folder."""
    return _text_model(load_text_encoder(model / "text_encoder", dtype=torch.float32).model, model / "tokenizer")


def new_text_model(arguments: dict[str, Any], clips: ClipSource, folder: Path) -> TextModel:
    """A new text encoder, and a tokenizer trained on captions.

    Args:
        arguments: of T5Config; `vocab_size` is how many pieces the tokenizer may have.
        clips: where captions come from.
        folder: for the files of the tokenizer.
    Raises: ValueError if there is no vocab_size.
    """
    from transformers import T5Config, T5EncoderModel

    pieces = arguments.get("vocab_size")
    if not isinstance(pieces, int):
        raise ValueError(f"text_encoder has vocab_size {pieces!r}; it takes how many pieces the tokenizer may have")
    sentences = [clips.caption(index, index, _CAPTIONED_FRAMES) for index in range(_SENTENCES)]
    embeddings = train_tokenizer(sentences, folder, pieces)
    config = T5Config(**{"feed_forward_proj": "gated-gelu", **arguments, "vocab_size": embeddings})
    return _text_model(T5EncoderModel(config), folder)


def _text_model(encoder: Any, folder: Path) -> TextModel:
    encoder.eval()  # no dropout, so that a resumed training run is the same as an uninterrupted one
    return TextModel(encoder, load_tokenizer(folder, encoder.config.vocab_size), folder)
