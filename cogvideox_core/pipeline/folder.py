"""A whole model folder: opened once, checked, and loaded as a pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from ..demo import DEMO_MODEL
from ..models.transformer.attention import choose_attention
from ..models.transformer.compilation import check_compiler, compile_blocks
from ..models.variants import Variant
from ..weights.diffusers_folder import folder_variant
from ..weights.dtypes import named_dtype, weights_dtype
from ..weights.errors import CheckpointError
from ..weights.load import (
    TransformerWeights,
    VAEWeights,
    build_transformer,
    build_vae,
    read_transformer,
    read_vae,
)
from ..weights.packed_weight import codec_of
from ..weights.quantize import Method, check_method
from ..weights.t5 import TextEncoderWeights, build_text_encoder, read_text_encoder, tokenizer_folder
from .offload import Offload
from .pipeline import CogVideoXPipeline

_SETTINGS = (
    "transformer/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "scheduler/scheduler_config.json",
)
_SMALL = 100_000_000  # parameters; in float32 they take 0.4 GB


@dataclass(frozen=True)
class ModelFolder:
    """A CogVideoX folder whose files are open and fit together; no weights are loaded yet.

    Attributes:
        path: the folder, in the official layout.
        transformer, vae, text_encoder: the configuration and the mapped tensors of each component.
        variant: the released model it is built like, with what the folder's own JSON files declare.
    """

    path: Path
    transformer: TransformerWeights
    vae: VAEWeights
    text_encoder: TextEncoderWeights
    variant: Variant

    @classmethod
    def open(cls, path: str | Path) -> ModelFolder:
        """Open a folder: reads the headers of its files, which is quick.

        Raises: CheckpointError if a component is missing or another's; ValueError if components do not fit together.
        """
        path = Path(path)
        if path.is_file():
            raise CheckpointError(
                f"{path} is a single file; give a whole CogVideoX folder, with transformer, VAE and text encoder in it"
            )
        _check_settings(path)
        transformer, vae, text_encoder = read_transformer(path), read_vae(path), read_text_encoder(path)
        tokenizer_folder(text_encoder.folder)
        width, wanted = text_encoder.config["d_model"], transformer.config.text_embed_dim
        if width != wanted:
            raise ValueError(
                f"the text encoder of {path} makes embeddings {width} wide and its transformer takes {wanted}; put the "
                "text encoder there that belongs to it"
            )
        return cls(path, transformer, vae, text_encoder, folder_variant(transformer.variant, path))

    def load(
        self,
        *,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
        quantize: Method = "none",
        attention: str = "auto",
        compile: bool = False,
        low_memory: bool = False,
    ) -> CogVideoXPipeline:
        """The pipeline of this folder; arguments and errors as for `load_pipeline`."""
        check_method(quantize)
        device = torch.device(device) if device is not None else default_device()
        wanted = named_dtype(dtype) if dtype is not None else self._default_dtype(device)
        choose_attention(attention, device, wanted)
        if compile:
            check_compiler(device)
        home = torch.device("cpu") if low_memory else device
        # With low_memory, weights stay mapped in their files and in their own dtype, and are cast on their way to the
        # device. Quantizing needs them cast first; so does a transformer of several dtypes.
        stays_mapped = low_memory and quantize == "none"
        transformer = build_transformer(
            self.transformer,
            source=self.path,
            dtype=None if stays_mapped and _has_one_dtype(self.transformer) else wanted,
            device=home,
            quantize=quantize,
        )
        if compile:
            compile_blocks(transformer)
        text_stays_mapped = stays_mapped and wanted != torch.float16  # which overflows in a T5's feed-forward
        text_encoder = build_text_encoder(
            self.text_encoder,
            dtype=None if text_stays_mapped else wanted,
            device=home,
            max_length=self.transformer.config.max_text_seq_length,
            widen=not text_stays_mapped,
            quantize=quantize,
        )
        return CogVideoXPipeline(
            transformer,
            build_vae(self.vae, source=self.path, dtype=wanted, device=home),
            text_encoder,
            self.variant,
            attention=attention,
            offload=Offload(device, wanted) if low_memory else None,
        )

    def _default_dtype(self, device: torch.device) -> torch.dtype:
        """The transformer's own dtype; on a CPU, which hardly computes in float16, float32 or bfloat16 in its place."""
        tensors = self.transformer.state_dict
        dtype = weights_dtype(tensors, None, self.path)
        if dtype != torch.float16 or device.type != "cpu":
            return dtype
        parameters = sum(tensor.numel() for tensor in tensors.values())
        return torch.float32 if parameters <= _SMALL else torch.bfloat16


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
        quantize: "int8" or "llm.int8" for transformer and text encoder in 8 bits (docs/int8.md).
        attention: "auto", or a name in `models.transformer.attention.BACKENDS`; "sage" is approximate.
        compile: compile the transformer's blocks with torch.compile: a wait at first, then faster steps.
        low_memory: keep everything in CPU memory and bring to the device what works at the moment: the text encoder,
            then the transformer, both block by block, then the VAE.
    Raises: CheckpointError if a component is missing or another's; ValueError if components do not fit together, for an
        unknown dtype or method, a method for a transformer that is quantized already, or what does not work on this
        device; ImportError for an attention backend, or bitsandbytes for "llm.int8", that is not installed.
    """
    check_method(quantize)
    folder = ModelFolder.open(DEMO_MODEL if path is None else path)
    return folder.load(
        dtype=dtype, device=device, quantize=quantize, attention=attention, compile=compile, low_memory=low_memory
    )


def default_device() -> torch.device:
    """The first CUDA device, else Apple's, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _check_settings(folder: Path) -> None:
    """A whole model has its settings next to its weights; guessed ones would be those of the official models."""
    present = [folder / name for name in _SETTINGS if (folder / name).parent.is_dir()]
    missing = [file for file in present if not file.is_file()]
    if missing and (folder / "model_index.json").is_file():
        raise CheckpointError(f"{missing[0]} is missing; get that file again, or the whole folder")


def _has_one_dtype(weights: TransformerWeights) -> bool:
    """Whether all tensors are of one dtype and, if quantized, of one codec."""
    return len({(tensor.dtype, codec_of(tensor)) for tensor in weights.state_dict.values()}) == 1
