"""Loading the T5 text encoder: its weights, its tokenizer, and a `TextEncoder` made of both."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..models.text_encoder import MAX_LENGTH, TextEncoder, t5_model, transformers_classes
from .components import find_config, open_component
from .config_json import check_fixed, declared_fields, read_json
from .diffusers_folder import component_path
from .dtypes import named_dtype, weights_dtype
from .errors import CheckpointError
from .fill import fill
from .packed_weight import PackedWeight
from .places import comfyui, hub_cache
from .places.names import locate
from .quantize import Method, check_method
from .recognize import expect_kind

EMBEDDING = "shared.weight"
_TIED_EMBEDDING = "encoder.embed_tokens.weight"
_FIRST_BLOCK = "encoder.block.0.layer."
_FIXED = {"model_type": "t5", "feed_forward_proj": "gated-gelu"}
_SENTENCEPIECE = "spiece.model"
T5_VOCABULARY = 32128
"""Embeddings of every released T5 v1.1; they all have one tokenizer."""


@dataclass(frozen=True)
class _ByConfig:
    """What the shapes of a T5 do not show; the defaults are those of T5 v1.1."""

    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6


class TextEncoderWeights(NamedTuple):
    """A T5 encoder that is open.

    Attributes:
        folder: its folder, or its file.
        config: the arguments of its T5Config.
        state_dict: its mapped tensors by published key.
        tokenizer: the folder of its tokenizer; None to look for one where they usually are.
    """

    folder: Path
    config: dict[str, Any]
    state_dict: dict[str, Tensor]
    tokenizer: Path | None = None

    @property
    def embedding(self) -> dict[str, Tensor]:
        """The table of its vocabulary [tokens, D] by key, whose dtype is that of the model."""
        return {EMBEDDING: self.state_dict[EMBEDDING]}


def load_text_encoder(
    path: str | Path,
    *,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str = "cpu",
    max_length: int = MAX_LENGTH,
    quantize: Method = "none",
) -> TextEncoder:
    """The T5 encoder at `path`, ready to run.

    Args:
        path: a whole CogVideoX folder, its text_encoder folder with the tokenizer folder next to it, or a file of T5
            v1.1 (see `tokenizer_folder`); or the name of one, see `weights/places/names.py`.
        dtype: of the weights; None keeps the file's, mapped and not copied (on the CPU). In float16 the output
            matrices of the feed-forward layers stay in float32, as transformers keeps them: they overflow.
        device: where the weights go.
        max_length: tokens of every prompt; 226 for the released models.
        quantize: "int8" or "llm.int8" for the large matrices in 8 bits; quantized ones stay as they are. In "int8"
            only weights are rounded here: a T5 has activations that 8 bits do not hold.
    Raises:
        CheckpointError if the weights do not make a T5 encoder, or the tokenizer is missing or another's.
        ValueError for an unknown dtype or method.
        ImportError if transformers, or what its tokenizer needs, is missing; bitsandbytes, if it is needed.
    """
    check_method(quantize)
    dtype = None if dtype is None else named_dtype(dtype)
    return build_text_encoder(
        read_text_encoder(path), dtype=dtype, device=device, max_length=max_length, quantize=quantize
    )


def build_text_encoder(
    weights: TextEncoderWeights,
    *,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str = "cpu",
    max_length: int = MAX_LENGTH,
    widen: bool = True,
    quantize: Method = "none",
) -> TextEncoder:
    """The T5 encoder of weights that are open, with its tokenizer; otherwise as `load_text_encoder`.

    Args: widen: False keeps float16 in all matrices, for weights that are cast before they are used.
    """
    wanted = None if dtype is None else named_dtype(dtype)
    tokenizer = load_tokenizer(weights.folder, weights.config["vocab_size"], weights.tokenizer)
    return TextEncoder(_load_t5(weights, wanted, device, widen, quantize), tokenizer, max_length)


def read_text_encoder(path: str | Path) -> TextEncoderWeights:
    """Open a T5 encoder without building it; nothing is copied.

    Args: path: as for `load_text_encoder`.
    Raises: CheckpointError if the weights do not make a T5 encoder.
    """
    folder = component_path(locate(path, "text_encoder"), "text_encoder")
    weights = open_component(folder, "text_encoder")
    expect_kind(weights, "text_encoder", folder)
    config = t5_config(weights.shapes, find_config(weights, folder), folder)
    embedding = weights[EMBEDDING if EMBEDDING in weights else _TIED_EMBEDDING]
    tensors = {key: weights[key] for key in weights if key.startswith("encoder.")}  # a whole T5 has a decoder too
    tensors.pop(_TIED_EMBEDDING, None)
    return TextEncoderWeights(folder, config, {EMBEDDING: embedding, **tensors})


def t5_config(
    shapes: Mapping[str, tuple[int, ...]], declared: Mapping[str, Any] | None, source: Path
) -> dict[str, Any]:
    """The arguments of transformers' T5Config, from shapes and, for what they do not show, from the config.json.

    Raises: CheckpointError if the shapes are not those of a T5 v1.1 encoder, or the config.json has other values.
    """
    check_fixed(declared, _FIXED, source)
    vocab_size, d_model = _matrix(shapes, EMBEDDING if EMBEDDING in shapes else _TIED_EMBEDDING, source)
    buckets, heads = _matrix(shapes, _FIRST_BLOCK + "0.SelfAttention.relative_attention_bias.weight", source)
    inner, _ = _matrix(shapes, _FIRST_BLOCK + "0.SelfAttention.q.weight", source)
    d_ff, _ = _matrix(shapes, _FIRST_BLOCK + "1.DenseReluDense.wi_0.weight", source)
    return {
        "vocab_size": vocab_size,
        "d_model": d_model,
        "d_kv": inner // heads,
        "d_ff": d_ff,
        "num_heads": heads,
        "num_layers": len({match[1] for key in shapes if (match := re.match(r"encoder\.block\.(\d+)\.", key))}),
        "relative_attention_num_buckets": buckets,
        "feed_forward_proj": _FIXED["feed_forward_proj"],
        **declared_fields(_ByConfig, declared, source),
    }


def _matrix(shapes: Mapping[str, tuple[int, ...]], key: str, source: Path) -> tuple[int, int]:
    shape = shapes.get(key, ())
    if len(shape) != 2 or not all(shape):
        found = f"is of shape {list(shape)}" if key in shapes else "is missing"
        raise CheckpointError(
            f"{source} is no whole T5 v1.1 encoder: {key} {found}; download the text_encoder folder again"
        )
    return shape[0], shape[1]


def _load_t5(
    encoder: TextEncoderWeights,
    dtype: torch.dtype | None,
    device: torch.device | str,
    widen: bool,
    quantize: Method,
) -> Any:
    """transformers' encoder with the mapped weights; with `widen`, float16 leaves the output matrices in float32."""
    embedding = encoder.state_dict[EMBEDDING]
    dtype = weights_dtype({EMBEDDING: embedding}, dtype, encoder.folder)
    model = t5_model(encoder.config)
    tensors = {**encoder.state_dict, _TIED_EMBEDDING: embedding}
    fill(model, tensors, dtype=dtype, device=device, source=encoder.folder, quantize=quantize)
    model.encoder.set_input_embeddings(model.shared)
    if dtype == torch.float16 and widen:
        _widen_outputs(model, tensors, device)
    return model


def _widen_outputs(model: Any, tensors: Mapping[str, Tensor], device: torch.device | str) -> None:
    """Have the output matrices of the feed-forward layers in float32: in float16 their products overflow."""
    for name, layer in model.named_modules():
        # bitsandbytes' layers hold integers and compute in a dtype of their own.
        if name.endswith(".wo") and layer.weight.is_floating_point():
            is_packed = isinstance(layer.weight, PackedWeight)
            wide = (layer.weight if is_packed else tensors[f"{name}.weight"]).to(device, torch.float32)
            layer.weight = torch.nn.Parameter(wide, requires_grad=False)


def load_tokenizer(text_encoder: Path, vocab_size: int, folder: Path | None = None) -> Any:
    """transformers' tokenizer of a text encoder, which must be complete and have no more tokens than embeddings.

    Args: folder: of the tokenizer; None for the one that `tokenizer_folder` finds.
    Raises: CheckpointError if it is missing or another's; ImportError if transformers, or what it needs, is missing.
    """
    folder = folder or tokenizer_folder(text_encoder, vocab_size)
    for file in folder.glob("*token*.json"):
        read_json(file)
    # As in diffusers: model_index.json names T5Tokenizer, which before transformers 5 reads SentencePiece files only.
    pieces = folder / _SENTENCEPIECE
    (tokenizer_class,) = transformers_classes("T5Tokenizer" if pieces.exists() else "T5TokenizerFast")
    if pieces.exists():
        _check_sentencepiece(pieces)
    tokenizer = tokenizer_class.from_pretrained(str(folder), local_files_only=True)
    if len(tokenizer) > vocab_size:
        raise CheckpointError(
            f"{folder} has {len(tokenizer)} tokens and {text_encoder} has embeddings for {vocab_size}; they are not "
            "of one model, download both again"
        )
    return tokenizer


def tokenizer_folder(text_encoder: Path, vocab_size: int | None = None, beside: Iterable[Path] = ()) -> Path:
    """The folder of a text encoder's tokenizer.

    That is `tokenizer` next to the encoder's folder or in it, or that folder itself, or one of those in `beside`. For
    T5's own vocabulary, which single files have, the tokenizer in ComfyUI's code or of a model in Hugging Face's cache
    does too.
    Raises: CheckpointError if none has the files of a tokenizer.
    """
    own = text_encoder if text_encoder.is_dir() else text_encoder.parent
    is_t5 = vocab_size == T5_VOCABULARY
    next_to_it = own.parent / "tokenizer"
    for folder in (next_to_it, own / "tokenizer", own, *beside, *(_tokenizers_of_t5() if is_t5 else ())):
        if any((folder / name).is_file() for name in (_SENTENCEPIECE, "tokenizer.json")):
            return folder
    download = f", or run: {hub_cache.download_command('zai-org/CogVideoX-5b/tokenizer')}" if is_t5 else ""
    raise CheckpointError(
        f"{next_to_it} holds no {_SENTENCEPIECE} or tokenizer.json; put the tokenizer folder of the model there"
        + download
    )


def _tokenizers_of_t5() -> Iterator[Path]:
    """Where a tokenizer for T5's own vocabulary may be on this machine."""
    if (folder := comfyui.t5_tokenizer()) is not None:
        yield folder
    for name, snapshot in hub_cache.cached_repositories().items():
        if "cogvideox" in name.casefold():
            yield snapshot / "tokenizer"
        elif name.startswith("google/t5-v1_1-"):
            yield snapshot


def _check_sentencepiece(path: Path) -> None:
    try:
        from google.protobuf import message  # noqa: F401 (transformers reads the file with it)
        from sentencepiece import SentencePieceProcessor
    except ImportError as error:
        raise ImportError(
            "Prompts need the packages sentencepiece and protobuf, and one is missing; run: "
            "pip install sentencepiece protobuf"
        ) from error
    try:
        SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{path} is no whole SentencePiece model; download it again") from error
