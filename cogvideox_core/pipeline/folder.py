"""A whole model: a folder, or files put together; opened once, checked, and loaded as a pipeline."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from ..demo import DEMO_MODEL
from ..kernels.devices import default_device, named_device
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
from ..weights.quantize import Method, check_method, check_method_on
from ..weights.t5 import TextEncoderWeights, build_text_encoder, read_text_encoder, tokenizer_folder
from .dtype_choice import check_dtype, own_dtype, text_encoder_dtype
from .offload import Offload
from .pipeline import CogVideoXPipeline, PromptEncoder
from .sources import NO_TEXT_ENCODER, Sources

logger = logging.getLogger("cogvideox")


@dataclass(frozen=True)
class LoadOptions:
    """Where and how a model computes; `load_pipeline` explains each."""

    dtype: torch.dtype | str | None = None
    device: torch.device | str | None = None
    text_encoder_device: torch.device | str | None = None
    quantize: Method = "none"
    attention: str = "auto"
    compile: bool = False
    low_memory: bool = False


@dataclass(frozen=True)
class ModelFolder:
    """A CogVideoX model whose files are open and fit together; no weights are loaded yet.

    Attributes:
        sources: where its components are.
        transformer, vae, text_encoder: the configuration and the mapped tensors of each component; no text encoder for
            a model that will be given embeddings.
        variant: the released model it is built like, with what the folder's own JSON files declare.
    """

    sources: Sources
    transformer: TransformerWeights
    vae: VAEWeights
    text_encoder: TextEncoderWeights | None
    variant: Variant

    @property
    def path(self) -> Path:
        """What was given as the model."""
        return self.sources.model

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        vae: str | Path | None = None,
        text_encoder: str | Path | None = None,
        needs_text_encoder: bool = True,
    ) -> ModelFolder:
        """Open a model: reads the headers of its files, which is quick.

        Args:
            path, vae, text_encoder: as for `load_pipeline`.
            needs_text_encoder: refuse a model that has none, unless `text_encoder` leaves it out.
        Raises: CheckpointError if a component is missing or another's; ValueError if components do not fit together.
        """
        sources = Sources.find(path, vae, text_encoder)
        _check_settings(sources)
        transformer = read_transformer(sources.transformer)
        sources.require("vae", *(("text_encoder",) if needs_text_encoder and text_encoder != NO_TEXT_ENCODER else ()))
        assert sources.vae is not None
        weights = read_vae(sources.vae)
        _check_vae(weights, sources.vae, transformer)
        text = None if sources.text_encoder is None else _open_text_encoder(sources, transformer)
        return cls(sources, transformer, weights, text, folder_variant(transformer.variant, sources.model))

    def load(self, options: LoadOptions) -> CogVideoXPipeline:
        """The pipeline of this model; errors as of `load_pipeline`."""
        dtype, device, text_encoder_device = options.dtype, options.device, options.text_encoder_device
        quantize, low_memory = options.quantize, options.low_memory
        check_method(quantize)
        device = named_device(device) if device is not None else default_device()
        wanted = self._checked_dtype(dtype, device) if dtype is not None else self._default_dtype(device)
        text = Offload(device, wanted)
        if text_encoder_device is not None and self.text_encoder is not None:
            other = named_device(text_encoder_device, "text_encoder_device")
            text = Offload(other, text_encoder_dtype(self.text_encoder, dtype, other))
        choose_attention(options.attention, device, wanted)
        check_method_on(quantize, device)
        if options.compile:
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
        if options.compile:
            compile_blocks(transformer)
        return CogVideoXPipeline(
            transformer,
            build_vae(self.vae, source=self.sources.vae or self.path, dtype=wanted, device=home),
            self._load_text_encoder(text.dtype, home if low_memory else text.device, quantize, stays_mapped),
            self.variant,
            attention=options.attention,
            offload=Offload(device, wanted, text) if low_memory else None,
        )

    def _load_text_encoder(
        self, dtype: torch.dtype, device: torch.device, quantize: Method, stays_mapped: bool
    ) -> PromptEncoder | None:
        if self.text_encoder is None:
            return None
        stays_mapped = stays_mapped and dtype != torch.float16  # which overflows in a T5's feed-forward
        return build_text_encoder(
            self.text_encoder,
            dtype=None if stays_mapped else dtype,
            device=device,
            max_length=self.transformer.config.max_text_seq_length,
            widen=not stays_mapped,
            quantize=quantize,
        )

    def _default_dtype(self, device: torch.device) -> torch.dtype:
        """The transformer's own dtype, where the device has arithmetic for it; see `own_dtype`."""
        tensors = self.transformer.state_dict
        parameters = sum(tensor.numel() for tensor in tensors.values())
        return own_dtype(weights_dtype(tensors, None, self.path), self._trained_dtype, device, parameters)

    def _checked_dtype(self, dtype: torch.dtype | str, device: torch.device) -> torch.dtype:
        """The dtype that was asked for. Raises: ValueError if the device does not compute in it."""
        wanted = named_dtype(dtype)
        check_dtype(wanted, self._trained_dtype, device)
        if wanted == torch.float16 != self._trained_dtype and device.type != "cpu":
            logger.warning(
                "%s was trained in bfloat16 and may overflow in float16; if it does, take float32", self.variant.name
            )
        return wanted

    @property
    def _trained_dtype(self) -> torch.dtype:
        return named_dtype(self.variant.defaults.dtype)


def load_pipeline(
    path: str | Path | None = None,
    *,
    vae: str | Path | None = None,
    text_encoder: str | Path | None = None,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    text_encoder_device: torch.device | str | None = None,
    quantize: Method = "none",
    attention: str = "auto",
    compile: bool = False,
    low_memory: bool = False,
) -> CogVideoXPipeline:
    """A CogVideoX model, ready to make videos.

    Args:
        path: a folder in the official layout, or a transformer in a file or folder of any form that is read, with `vae`
            and `text_encoder` to it; or a name: one below ComfyUI's model folders, where COMFYUI_PATH says where
            ComfyUI is, or OWNER/NAME of what Hugging Face's cache holds. None for the demo model.
        vae, text_encoder: a file, a folder or a name; None for what is in the model's own folder. A model that has no
            text encoder takes `prompt_embeds`; "none" leaves out the one that it has.
        dtype: of all components; None keeps the transformer's own where the device has arithmetic for it. A CPU has
            hardly any for float16: there small models run in float32 and large ones in bfloat16. NVIDIA cards before
            compute capability 8.0 have none for bfloat16, which is float32 there, or float16 for a 2B.
        device: "cuda", "cuda:1", "xpu", or another that PyTorch has here; None for the accelerator, else the CPU.
        text_encoder_device: where prompts are encoded, in the text encoder's own dtype; None for `device`.
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
    path = DEMO_MODEL if path is None else path
    folder = ModelFolder.open(path, vae=vae, text_encoder=text_encoder, needs_text_encoder=False)
    if folder.text_encoder is None and text_encoder != NO_TEXT_ENCODER:
        logger.warning("%s has no text encoder, so it takes prompt_embeds alone; text_encoder=PATH gives it one", path)
    return folder.load(LoadOptions(dtype, device, text_encoder_device, quantize, attention, compile, low_memory))


def _check_settings(sources: Sources) -> None:
    """A whole model has its settings next to its weights; guessed ones would be those of the official models."""
    root = sources.root
    if root is None or not (root / "model_index.json").is_file():
        return
    components = (sources.transformer, sources.vae, sources.text_encoder)
    files = [root / "scheduler" / "scheduler_config.json"]
    files += [folder / "config.json" for folder in components if folder is not None and folder.parent == root]
    missing = [file for file in files if file.parent.is_dir() and not file.is_file()]
    if missing:
        raise CheckpointError(f"{missing[0]} is missing; get that file again, or the whole folder")


def _check_vae(vae: VAEWeights, source: Path, transformer: TransformerWeights) -> None:
    """Refuse a VAE whose latents are not the transformer's. Raises: ValueError."""
    made, taken = vae.config.latent_channels, transformer.config.out_channels
    if made != taken:
        raise ValueError(
            f"the VAE of {source} makes latents of {made} channels and the transformer takes {taken}; give vae=PATH of "
            "one that belongs to it"
        )


def _open_text_encoder(sources: Sources, transformer: TransformerWeights) -> TextEncoderWeights:
    """The text encoder with the tokenizer that goes with it. Raises: as `ModelFolder.open`."""
    assert sources.text_encoder is not None
    weights = read_text_encoder(sources.text_encoder)
    beside = [] if sources.root is None else [sources.root / "tokenizer"]
    tokenizer = tokenizer_folder(weights.folder, weights.config["vocab_size"], beside)
    width, wanted = weights.config["d_model"], transformer.config.text_embed_dim
    if width != wanted:
        raise ValueError(
            f"the text encoder of {sources.text_encoder} makes embeddings {width} wide and its transformer takes "
            f"{wanted}; put the text encoder there that belongs to it, or give it as text_encoder=PATH"
        )
    return weights._replace(tokenizer=tokenizer)


def _has_one_dtype(weights: TransformerWeights) -> bool:
    """Whether all tensors are of one dtype and, if quantized, of one codec."""
    return len({(tensor.dtype, codec_of(tensor)) for tensor in weights.state_dict.values()}) == 1
