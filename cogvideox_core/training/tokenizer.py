"""A tokenizer of one's own: a small SentencePiece model in the files of T5's tokenizer."""

from __future__ import annotations

import io
import json
import string
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..models.text_encoder import MAX_LENGTH

_EXTRA_IDS = 100  # T5's sentinels; its tokenizer classes expect them behind the vocabulary


def train_tokenizer(sentences: Iterable[str], folder: str | Path, vocab_size: int, max_length: int = MAX_LENGTH) -> int:
    """Write the `tokenizer` folder of a vocabulary learned from `sentences`.

    Words become one piece if they are frequent; every word can be spelled in letters. Capitals count as small letters.

    Returns: how many embeddings a text encoder needs.
    """
    import sentencepiece

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", suffix=".tsv") as rules:
        rules.writelines(f"{ord(letter):X}\t{ord(letter.lower()):X}\n" for letter in string.ascii_uppercase)
        rules.flush()
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=model,
            model_type="unigram",
            vocab_size=vocab_size,
            required_chars=string.ascii_lowercase + string.digits + string.punctuation,
            normalization_rule_tsv=rules.name,
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
    (folder / "spiece.model").write_bytes(model.getvalue())
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue()).vocab_size()
    extra = [f"<extra_id_{index}>" for index in range(_EXTRA_IDS)]
    special = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "additional_special_tokens": extra}
    _write(folder / "special_tokens_map.json", special)
    _write(folder / "tokenizer_config.json", {"tokenizer_class": "T5Tokenizer", "extra_ids": _EXTRA_IDS,
        "legacy": True, "model_max_length": max_length, "sp_model_kwargs": {}, **special})  # fmt: skip
    # As in T5, the sentinels count down: <extra_id_99> follows the last piece.
    _write(folder / "added_tokens.json", {name: pieces + _EXTRA_IDS - 1 - i for i, name in enumerate(extra)})
    return pieces + _EXTRA_IDS


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
