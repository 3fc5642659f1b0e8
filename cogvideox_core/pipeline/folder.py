"""A whole pipeline from one folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..demo import DEMO_MODEL
from ..models.transformer.attention import choose_attention
from ..models.transformer.compilation import check_compiler, compile_blocks
from ..models.variants import Variant
from ..weights.diffusers_folder import folder_variant
from ..weights.dtypes import named_dtype, weights_dtype
from ..weights.errors import CheckpointError
from ..weights.int8 import Method, check_method
from ..weights.load import TransformerWeights, load_transformer, load_vae, read_transformer, read_vae
from ..weights.packed_weight import codec_of
from ..weights.t5 import load_text_encoder, text_encoder_width
from .offload import Workplace
from .pipeline import CogVideoXPipeline

_SETTINGS = (
    "transformer/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "scheduler/scheduler_config.json",
)
_SMALL = 100_000_000  # parameters; in float32 they take 0.4 GB


def load_pipeline(
    path: str | Path | None = None,
    *,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    quantize: Method = "none",
    attention: str = "auto",
    compile: bool = False,
    low_memory: bool = False,
) -> CogVideoXPipeline:
    """Everything in a CogVideoX folder, ready to make videos.

    Args:
        path: a folder in the official layout; None for the demo model.
        dtype: of all components; None keeps the transformer's own, except float16 on a CPU, which has hardly any
            arithmetic for it: there small models run in float32 and large ones in bfloat16.
        device: None for the first CUDA device, else Apple's, else the CPU.
        quantize: "int8" or "llm.int8" for transformer and text encoder in 8 bits, as `weights.int8` tells.
        attention: "auto", or a backend: "sdpa", "onednn", "cudnn", "flash", or "sage", which is approximate.
        compile: have torch.compile make the transformer's blocks faster, which takes a while at first.
        low_memory: keep everything in CPU memory and bring to the device what is at work: the text encoder, then the
            transformer, both block by block, then the VAE.
    Raises: as `check_folder`; ValueError for an unknown dtype or method, a method for a transformer that is in few bits
        already, or what does not work on this device; ImportError for an attention backend, or bitsandbytes for
        "llm.int8", that is not installed.
    """
    if path is None:
        path = DEMO_MODEL
    check_method(quantize)
    weights, variant = check_folder(path)
    device = torch.device(device) if device is not None else default_device()
    wanted = named_dtype(dtype) if dtype is not None else _own_dtype(weights, path, device)
    max_length = weights.config.max_text_seq_length
    choose_attention(attention, device, wanted)
    if compile:
        check_compiler(device)
    place = torch.device("cpu") if low_memory else device
    # In low memory, weights stay in their files, in the files' numbers, and are cast on their way to the device.
    kept = low_memory and quantize == "none" and _of_one_kind(weights.state_dict)
    transformer = load_transformer(path, dtype=None if kept else wanted, device=place, quantize=quantize)
    if compile:
        compile_blocks(transformer)
    kept = low_memory and quantize == "none" and wanted != torch.float16
    text_encoder = load_text_encoder(
        path,
        dtype=None if kept else wanted,
        device=place,
        max_length=max_length,
        widen=not kept,
        quantize=quantize,
    )
    return CogVideoXPipeline(
        transformer,
        load_vae(path, dtype=wanted, device=place),
        text_encoder,
        variant,
        attention=attention,
        workplace=Workplace(device, wanted) if low_memory else None,
    )


def check_folder(path: str | Path) -> tuple[TransformerWeights, Variant]:
    """What a folder holds, from the headers of its files: quick, and before anything is loaded.

    Returns: its transformer, and the variant with what the folder's own JSON files declare.
    Raises: CheckpointError if a component is missing or another's; ValueError if components do not fit together.
    """
    if Path(path).is_file():
        raise CheckpointError(
            f"{path} is a single file; give a whole CogVideoX folder, with transformer, VAE and text encoder in it"
        )
    _check_settings(Path(path))
    weights = read_transformer(path)
    read_vae(path)
    width, wanted = text_encoder_width(path), weights.config.text_embed_dim
    if width != wanted:
        raise ValueError(
            f"the text encoder of {path} makes embeddings {width} wide and its transformer takes {wanted}; put the "
            "text encoder there that belongs to it"
        )
    return weights, folder_variant(weights.variant, path)


def _check_settings(folder: Path) -> None:
    """A whole model has its settings beside its weights; guessed ones would be those of the official models."""
    present = [folder / name for name in _SETTINGS if (folder / name).parent.is_dir()]
    missing = [file for file in present if not file.is_file()]
    if missing and (folder / "model_index.json").is_file():
        raise CheckpointError(f"{missing[0]} is missing; get that file again, or the whole folder")


def default_device() -> torch.device:
    """The first CUDA device, else Apple's, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _of_one_kind(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether all tensors are of one dtype and form."""
    return len({(tensor.dtype, codec_of(tensor)) for tensor in state_dict.values()}) == 1


def _own_dtype(weights: TransformerWeights, path: str | Path, device: torch.device) -> torch.dtype:
    dtype = weights_dtype(weights.state_dict, None, path)
    if dtype != torch.float16 or device.type != "cpu":
        return dtype
    parameters = sum(tensor.numel() for tensor in weights.state_dict.values())
    return torch.float32 if parameters <= _SMALL else torch.bfloat16
