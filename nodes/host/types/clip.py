"""CLIP: a T5 encoder as ComfyUI's own text encoder class, so that offloading, LoRA and CLIP nodes work on it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models_base
import comfy.text_encoders.sd3_clip
import comfy.text_encoders.t5
import torch
from comfy.text_encoders.spiece_tokenizer import SPieceTokenizer
from transformers import T5TokenizerFast  # pyright: ignore[reportAttributeAccessIssue] (made on first use)

from ....cogvideox_core.models.text_encoder import MAX_LENGTH
from ....cogvideox_core.weights.dtypes import weights_dtype
from ....cogvideox_core.weights.fill import fill_host_module
from ....cogvideox_core.weights.quantize import Method, quantize_tensors
from ....cogvideox_core.weights.t5 import T5_VOCABULARY, TextEncoderWeights, read_text_encoder, tokenizer_folder
from .packed_weights import fill_packed, holds_packed_weights, operations_for

NAME = "t5xxl"  # ComfyUI's name for a T5 among the encoders of a CLIP
EOS, PAD = 1, 0


def load_clip(path: str | Path, method: Method = "none", device: torch.device | None = None) -> comfy.sd.CLIP:
    """A CLIP of a text_encoder folder with its tokenizer, or of a file with T5's own vocabulary.

    Args:
        method: "int8" to quantize the large matrices; those of a quantized file stay as they are.
        device: where prompts are encoded; None lets ComfyUI choose.
    Raises: CheckpointError if it holds no T5 encoder; ValueError for quantized weights without ComfyUI's package for
        them.
    """
    encoder = read_text_encoder(path)
    state_dict, config = encoder.state_dict, encoder.config
    dtype = weights_dtype(state_dict, None, path)
    if method == "int8":
        state_dict = quantize_tensors(state_dict, dtype, device or comfy.model_management.text_encoder_device())
    small = holds_packed_weights(state_dict)
    like = comfy.text_encoders.t5.T5(_host_config(config), torch.float32, torch.device("meta"), torch.nn)
    # Started where it rests: on the device ComfyUI would fill it with memory that the mapped weights then replace.
    offload_device = torch.device("cpu") if device else comfy.model_management.text_encoder_offload_device()
    options: dict[str, Any] = {"initial_device": offload_device}
    if device is not None:
        options |= {"load_device": device, "offload_device": offload_device}
    if small:
        options["custom_operations"] = operations_for(dtype, weights_only=True)

    def take_weights(transformer: Any) -> None:
        if small:
            fill_packed(transformer, state_dict, dtype=dtype, device=offload_device, source=path, like=like)
        else:
            fill_host_module(transformer, state_dict, source=path, like=like)

    target = comfy.supported_models_base.ClipTarget(
        _tokenizer_class(_open_tokenizer(encoder), config["d_model"]),
        _encoder_class(config, dtype, take_weights),
    )
    parameters = sum(tensor.numel() for tensor in state_dict.values())
    return comfy.sd.CLIP(target, parameters=parameters, tokenizer_data={}, model_options=options)


def _open_tokenizer(encoder: TextEncoderWeights) -> Any:
    """The tokenizer that belongs to the encoder, else ComfyUI's own for T5; needs only packages that ComfyUI needs."""
    carried = Path(comfy.text_encoders.sd3_clip.__file__).parent / "t5_tokenizer"
    vocab_size = encoder.config["vocab_size"]
    folder = tokenizer_folder(encoder.folder, vocab_size, [carried] if vocab_size == T5_VOCABULARY else ())
    if (folder / "spiece.model").is_file():
        return SPieceTokenizer(str(folder / "spiece.model"), add_bos=False, add_eos=True)
    return T5TokenizerFast.from_pretrained(str(folder), local_files_only=True)


def tokenize(clip: Any, text: str, *, prompt_weights: bool = False) -> tuple[dict[str, Any], int, str]:
    """Exactly MAX_LENGTH tokens, as the model was trained with, of any CLIP that has a T5.

    Args: prompt_weights: read "(word:1.2)" as a weight; otherwise brackets are text, as in the reference.
    Returns: the tokens, how many the whole text has (the closing one included), and the text that was cut.
    Raises: ValueError if the CLIP has no T5.
    """
    options = {f"{NAME}_min_length": MAX_LENGTH}
    tokens = clip.tokenize(text, disable_weights=not prompt_weights, tokenizer_options=options)
    if NAME not in tokens:
        raise ValueError(
            f"a CLIP with {', '.join(tokens)}; CogVideoX needs T5-XXL: take CogVideoX Load T5, or Load CLIP with a "
            "t5xxl file and type cogvideox or sd3"
        )
    pairs = list(chain.from_iterable(tokens[NAME]))
    ids = [pair[0] for pair in pairs]
    count = ids.index(EOS) + 1 if EOS in ids else len(ids)
    cut = pairs[MAX_LENGTH - 1 : count - 1] if count > MAX_LENGTH else []
    kept = pairs[:count] if not cut else [*pairs[: MAX_LENGTH - 1], pairs[count - 1]]
    padding = [(PAD, 1.0)] * (MAX_LENGTH - len(kept))
    others = {name: [] for name in tokens}  # none for the other encoders of type sd3, which then do nothing
    return {**others, NAME: [[*kept, *padding]]}, count, _spell(clip, cut)


def _spell(clip: Any, pairs: list[Any]) -> str:
    """The text of tokens; the pieces' word mark is a space."""
    tokenizer = getattr(clip.tokenizer, NAME, clip.tokenizer)  # of several, T5's
    pieces = [piece for _, piece in tokenizer.untokenize(pairs)]
    return "".join(pieces).replace("\u2581", " ").strip()


def _host_config(config: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a T5 v1.1 under ComfyUI's names."""
    return {**config, "dense_act_fn": "gelu_pytorch_tanh", "is_gated_act": True, "model_type": "t5"}


def _encoder_class(config: dict[str, Any], file_dtype: torch.dtype, take_weights: Callable[[Any], None]) -> type:
    """ComfyUI makes text encoders from a class; this one carries the sizes and weights of the file at hand."""
    host_config = _host_config(config)
    host_class: Any = comfy.text_encoders.t5.T5  # ComfyUI's types expect CLIP's own models and tokenizers only

    class T5(comfy.sd1_clip.SDClipModel):
        def __init__(self, device="cpu", dtype=None, model_options=None):
            super().__init__(
                device=device,
                layer="last",
                textmodel_json_config=host_config,
                dtype=dtype,
                special_tokens={"end": EOS, "pad": PAD},
                model_class=host_class,
                model_options=model_options or {},
            )

    class CogVideoXT5(comfy.sd1_clip.SD1ClipModel):
        def __init__(self, device="cpu", dtype=None, model_options=None):  # the file's dtype is kept, not ComfyUI's
            encoder: Any = T5
            super().__init__(
                device=device, dtype=file_dtype, name=NAME, clip_model=encoder, model_options=model_options or {}
            )
            take_weights(getattr(self, NAME).transformer)

    return CogVideoXT5


def _tokenizer_class(tokenizer: Any, width: int) -> type:
    """ComfyUI's tokenizer class around the tokenizer that belongs to the encoder."""

    class Opened:
        @staticmethod
        def from_pretrained(path: str, **options: Any) -> Any:
            return tokenizer

    opened: Any = Opened

    class T5Tokenizer(comfy.sd1_clip.SDTokenizer):
        def __init__(self, embedding_directory=None, tokenizer_data=None):
            super().__init__(
                embedding_directory=embedding_directory,
                pad_with_end=False,
                embedding_size=width,
                embedding_key=NAME,
                tokenizer_class=opened,
                has_start_token=False,
                pad_to_max_length=False,
                max_length=99999999,
                min_length=MAX_LENGTH,
                tokenizer_data=tokenizer_data or {},
            )

    class CogVideoXTokenizer(comfy.sd1_clip.SD1Tokenizer):
        def __init__(self, embedding_directory=None, tokenizer_data=None):
            super().__init__(
                embedding_directory=embedding_directory,
                tokenizer_data=tokenizer_data or {},
                name=NAME,
                tokenizer=T5Tokenizer,
            )

    return CogVideoXTokenizer
