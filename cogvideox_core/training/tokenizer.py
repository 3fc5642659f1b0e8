"""Training a tokenizer: a small SentencePiece model, written as the files of T5's tokenizer."""

from __future__ import annotations

import io
import json
import string
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..models.text_encoder import MAX_LENGTH

_EXTRA_IDS = 100  # T5's sentinels; its tokenizer classes expect them after the vocabulary


def train_tokenizer(sentences: Iterable[str], folder: str | Path, vocab_size: int, max_length: int = MAX_LENGTH) -> int:
    """Write the `tokenizer` folder of a vocabulary learned from `sentences`.

    Frequent words become one piece; every other word can be spelled in letters. Upper case counts as lower case.

    Returns: how many embeddings a text encoder needs.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    model, pieces = _train_pieces(sentences, vocab_size)
    (folder / "spiece.model").write_bytes(model)
    extra = [f"<extra_id_{index}>" for index in range(_EXTRA_IDS)]
    special = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "additional_special_tokens": extra}
    _write(folder / "special_tokens_map.json", special)
    config = {"tokenizer_class": "T5Tokenizer", "extra_ids": _EXTRA_IDS, "legacy": True}
    _write(
        folder / "tokenizer_config.json", {**config, "model_max_length": max_length, "sp_model_kwargs": {}, **special}
    )
    # As in T5, the sentinels count down: <extra_id_99> follows the last piece.
    _write(folder / "added_tokens.json", {name: pieces + _EXTRA_IDS - 1 - i for i, name in enumerate(extra)})
    return pieces + _EXTRA_IDS


def _train_pieces(sentences: Iterable[str], vocab_size: int) -> tuple[bytes, int]:
    """A SentencePiece model, and how many pieces it has: `vocab_size` or fewer."""
    import sentencepiece

    model = io.BytesIO()
    lower_case = "".join(f"{ord(letter):X}\t{ord(letter.lower()):X}\n" for letter in string.ascii_uppercase)
    with tempfile.TemporaryDirectory() as folder:
        rules = Path(folder) / "lower_case.tsv"  # by name: Windows opens a file once at a time
        rules.write_text(lower_case, encoding="utf-8", newline="\n")
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=model,
            model_type="unigram",
            vocab_size=vocab_size,
            required_chars=string.ascii_lowercase + string.digits + string.punctuation,
            normalization_rule_tsv=str(rules),
            hard_vocab_limit=False,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            pad_piece="<pad>",
            eos_piece="</s>",
            unk_piece="<unk>",
            num_threads=1,
            minloglevel=2,
        )
    return model.getvalue(), sentencepiece.SentencePieceProcessor(model_proto=model.getvalue()).vocab_size()


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
