"""MODEL: the transformer on ComfyUI's BaseModel, with the official noise schedule, in a ModelPatcher."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import comfy.conds
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.supported_models_base
import torch
from torch import Tensor

from ....cogvideox_core.models.config import PositionTable, TransformerConfig
from ....cogvideox_core.models.shapes import VideoSize, check_size
from ....cogvideox_core.models.transformer.model import CogVideoXTransformer3D
from ....cogvideox_core.models.variants import Conditioning, Variant, taking
from ....cogvideox_core.pipeline.conditioning import ImageScale, image_latent_factor
from ....cogvideox_core.sampling.noise_schedule import NoiseSchedule
from ....cogvideox_core.videos.preview_colours import OFFICIAL_RGB, LatentRGB
from ....cogvideox_core.weights import empty_layers as layers
from ....cogvideox_core.weights.diffusers_folder import folder_variant
from ....cogvideox_core.weights.fill import fill_host_module
from ....cogvideox_core.weights.load import read_transformer
from ....cogvideox_core.weights.quantize import Method, check_quantizable, quantize_tensors
from .dtypes import choose_dtypes, supported_dtypes
from .latent_format import CogVideoXLatentFormat, colours_of
from .leading_frames import pad_to, spread_image_latents
from .model_sampling import CogVideoXModelSampling
from .other_nodes import NOTICES, without_effect
from .packed_weights import fill_packed, holds_packed_weights, operations_for, stored_blocks
from .sampling_wrappers import wrap_sampling
from .transformer import HostTransformer

# What a model may be given in addition to the prompt, in words, and the node that gives it.
_GIVEN: dict[Conditioning, str] = {
    "image": "an image",
    "control": "a control video",
    "inpaint": "a masked video",
    "quadmask": "a masked video",
}
_NODES: dict[Conditioning, str] = {
    "image": "CogVideoX Image to Video",
    "control": "CogVideoX Control",
    "inpaint": "CogVideoX Inpaint",
    "quadmask": "CogVideoX Inpaint",
}


POSITION_TABLE = "cogvideox_position_table"  # of a CONDITIONING: what becomes of a learned table


class ModelSettings(dict[str, Any]):
    """What our models are built with; other nodes look here for settings of U-Nets."""

    def __missing__(self, key: str) -> Any:
        raise MissingSetting(f"CogVideoX has no {key!r}, which a node asked for that is for U-Nets; take that node out")


class MissingSetting(KeyError):
    """A KeyError that shows its sentence as it is."""

    def __str__(self) -> str:
        return str(self.args[0])


class CogVideoXModelConfig(comfy.supported_models_base.BASE):
    """What ComfyUI asks of a model family. One instance describes one model."""

    unet_extra_config: dict[str, Any] = {}
    vae_key_prefix = ["vae."]
    text_encoder_key_prefix = ["text_encoders."]

    def __init__(self, config: TransformerConfig, variant: Variant, rgb: LatentRGB = OFFICIAL_RGB) -> None:
        self.latent_format = lambda: CogVideoXLatentFormat(variant.vae.scaling_factor, rgb)
        super().__init__({"config": config, "variant": variant})
        self.unet_config = ModelSettings(self.unet_config)
        self.supported_inference_dtypes = supported_dtypes(variant)
        self.memory_usage_factor = _memory_usage_factor(config)

    def process_unet_state_dict_for_saving(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights of any shapes [...] under diffusers' keys, which every other loader of CogVideoX opens."""
        return stored_blocks(state_dict)


class CogVideoXModel(comfy.model_base.BaseModel):
    """A CogVideoX transformer with everything that belongs to it: schedule, scales, limits."""

    diffusion_model: HostTransformer

    def __init__(self, model_config: CogVideoXModelConfig, device: torch.device | None = None) -> None:
        transformer: Any = HostTransformer  # which ComfyUI's own type does not expect
        super().__init__(model_config, comfy.model_base.ModelType.V_PREDICTION, device=device, unet_model=transformer)
        self.schedule = NoiseSchedule(self.variant.schedule)
        self.model_sampling = CogVideoXModelSampling(model_config)

    @property
    def config(self) -> TransformerConfig:
        return self.diffusion_model.config

    @property
    def variant(self) -> Variant:
        variant = self.diffusion_model.variant
        assert variant is not None, "load_model gives one"
        return variant

    def apply_model(self, x: Tensor, t: Tensor, *rest: Any, **given: Any) -> Tensor:
        """x0 [B, C, T, h, w] of x [B, C, T, h, w] at sigmas t [B]; the log says which nodes have no effect on it."""
        options = given.get("transformer_options", {})
        if NOTICES in options:  # here and not in the forward, which TorchCompileModel compiles
            config = self.config
            rotates = config.use_rotary_positional_embeddings
            for sentence in without_effect(options, self.variant.name, config.num_layers, rotates):
                options[NOTICES].say(sentence)
        return super().apply_model(x, t, *rest, **given)

    def check_latents(self, shape: tuple[int, ...], position_table: PositionTable = "trained") -> None:
        """Refuse latents [B, C, T, h, w] that are no video this model can make, with or without leading frames.

        More frames than the model was trained for are no fault: a LoRA or context windows may be for them.

        Args: position_table: what becomes of a learned one.
        Raises: ValueError.
        """
        size = self.video_size(shape)
        check_size(size, self.config, self.variant, allow_any_size=True, position_table=position_table)

    def video_size(self, shape: tuple[int, ...]) -> VideoSize:
        """The size of the video of latents [B, C, T, h, w], with or without leading frames.

        Raises: ValueError if they are no latents of a video.
        """
        if len(shape) != 5 or shape[1] != self.config.out_channels:
            raise ValueError(
                f"a latent of shape {tuple(shape)}; {self.variant.name} takes [B, {self.config.out_channels}, T, h, w]"
                "; make it with CogVideoX Empty Latent, Image to Video or VAE Encode"
            )
        vae = self.variant.vae
        frames = shape[2] - (shape[2] % self.config.frame_patch == 0 and self.config.frame_patch > 1)
        if frames % 2 == 0:
            raise ValueError(
                f"a latent of {frames} frames; CogVideoX has an odd number of them, one for each four frames of the "
                "video and one for the first; make it with CogVideoX Empty Latent, which takes any length"
            )
        num_frames = (frames - 1) * vae.temporal_compression_ratio + 1
        ratio = vae.spatial_compression_ratio
        return VideoSize(shape[3] * ratio, shape[4] * ratio, num_frames)

    def check_conditioning(self, cross_attn: Tensor | None, given: Conditioning) -> None:
        """Raises: ValueError if text embeddings [B, L, D], or what is given with the prompt, do not fit this model."""
        takes = self.variant.conditioning
        if cross_attn is not None:
            self._check_text(cross_attn)
        if taking(self.variant, given):
            return
        if takes == "text":
            raise ValueError(
                f"{_GIVEN[given]} for {self.variant.name}, which makes a video from a prompt alone; take CogVideoX "
                f"Empty Latent in place of {_NODES[given]}, or load a model that takes {_GIVEN[given]}"
            )
        if given == "text":
            raise ValueError(
                f"no {_GIVEN[takes].split(maxsplit=1)[1]} for {self.variant.name}, which makes a video from "
                f"{_GIVEN[takes]} and a prompt; put {_NODES[takes]} before the sampler"
            )
        raise ValueError(
            f"{_GIVEN[given]} for {self.variant.name}, which takes {_GIVEN[takes]}; put {_NODES[takes]} before the "
            f"sampler in place of {_NODES[given]}"
        )

    def _check_text(self, embeds: Tensor) -> None:
        """Embeddings [B, L, D]; more tokens than a prompt has are what joins prompts, where no table counts them."""
        width, tokens, length = self.config.text_embed_dim, self.config.max_text_seq_length, embeds.shape[1]
        if embeds.shape[-1] != width:
            raise ValueError(
                f"the conditioning is {embeds.shape[-1]} wide; {self.variant.name} takes {width}: encode the prompt "
                "with the text encoder that belongs to it"
            )
        if length < tokens or (self.config.use_learned_positional_embeddings and length > tokens):
            raise ValueError(
                f"the conditioning has {length} tokens; {self.variant.name} takes {tokens}: encode the prompt with "
                "CogVideoX T5 Encode, which makes as many of any prompt"
            )

    def concat_cond(self, **kwargs: Any) -> Tensor | None:
        """Latents for the channels behind the noise, in the model's scale; [B, C, T, h, w]."""
        z, noise, given = kwargs.get("concat_latent_image"), kwargs["noise"], given_beside(kwargs)
        self.check_conditioning(kwargs.get("cross_attn"), given)
        if z is None:
            return None
        scale: ImageScale = kwargs.get("cogvideox_image_scale", "diffusers")
        z = (spread_image_latents if given == "image" else pad_to)(z, noise.shape[2])
        if z.shape[2:] != noise.shape[2:]:
            raise ValueError(
                f"image latents of {tuple(z.shape[2:])} (frames, rows, columns) for a latent of "
                f"{tuple(noise.shape[2:])}; take the latent from the same {_NODES[given]} node"
            )
        z = z.expand(noise.shape[0], -1, -1, -1, -1) if len(z) == 1 else z
        return z.to(kwargs["device"]) * image_latent_factor(self.variant.vae, scale)

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        """The transformer's arguments besides x and the timestep."""
        table: PositionTable = kwargs.get(POSITION_TABLE, "trained")
        self.check_latents(kwargs["noise"].shape, table)
        out: dict[str, Any] = {"position_table": comfy.conds.CONDConstant(table)}
        image = self.concat_cond(**kwargs)
        if image is not None:
            out["c_concat"] = comfy.conds.CONDNoiseShape(image)
        if kwargs.get("cross_attn") is not None:
            # Not CONDCrossAttn: that repeats a shorter prompt's tokens, which changes a joint attention.
            out["c_crossattn"] = comfy.conds.CONDRegular(kwargs["cross_attn"])
        return out


def given_beside(values: Mapping[str, Any]) -> Conditioning:
    """What a conditioning with these values gives in addition to the prompt."""
    return "text" if values.get("concat_latent_image") is None else values.get("cogvideox_conditioning", "image")


def load_model(
    path: str | Path, dtype: torch.dtype | None = None, method: Method = "none", disable_dynamic: bool = False
) -> Any:
    """A MODEL (ModelPatcher) of a transformer folder or file.

    Args:
        dtype: of the weights in memory; None lets ComfyUI choose for the device. What overflows in float16 computes
            in another one.
        method: "int8" to quantize the large matrices.
        disable_dynamic: a plain patcher even where ComfyUI streams weights by itself.
    Raises: CheckpointError if the weights do not make a known model; ValueError for int8 where the matrices are
        quantized already, or for quantized weights without ComfyUI's package for them.
    """
    config, row, state_dict = read_transformer(path)
    variant = folder_variant(row, path)
    if method == "int8":
        check_quantizable(state_dict, method, path)
    quantized = method == "int8" or holds_packed_weights(state_dict)
    dtypes = choose_dtypes(state_dict, path, variant, dtype, quantized=quantized)
    if method == "int8":
        device = comfy.model_management.get_torch_device()
        state_dict = quantize_tensors(state_dict, dtypes.compute or dtypes.weights, device)
    model_config = CogVideoXModelConfig(config, variant, colours_of(path))
    model_config.set_inference_dtype(dtypes.weights, dtypes.compute)
    patcher = _filled(model_config, state_dict, path, quantized, disable_dynamic)
    wrap_sampling(patcher)
    patcher.cached_patcher_init = (load_model, (path, dtype, method))
    return patcher


def _filled(
    model_config: CogVideoXModelConfig,
    state_dict: dict[str, Tensor],
    path: str | Path,
    quantized: bool,
    disable_dynamic: bool,
) -> Any:
    """A model with its weights, in a ModelPatcher."""
    offload_device = comfy.model_management.unet_offload_device()
    config, dtype = model_config.unet_config["config"], model_config.unet_config["dtype"]
    like = CogVideoXTransformer3D(config, device="meta", operations=layers)
    if quantized:
        compute_dtype = model_config.manual_cast_dtype or dtype
        model_config.custom_operations = operations_for(compute_dtype)
        # ComfyUI's layers for quantized weights keep the device they are built on; all others start without memory.
        model = CogVideoXModel(model_config, device=offload_device)
        options = {"dtype": compute_dtype, "device": offload_device}
        fill_packed(model.diffusion_model, state_dict, source=path, like=like, **options)
    else:
        model = CogVideoXModel(model_config, device=torch.device("meta"))
        fill_host_module(model.diffusion_model, state_dict, dtype=dtype, device=offload_device, source=path, like=like)
    # CoreModelPatcher is replaced when ComfyUI starts to stream weights, so it is looked up here and not imported.
    patcher_class = comfy.model_patcher.ModelPatcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher
    return patcher_class(model, comfy.model_management.get_torch_device(), offload_device)


def cogvideox_model(patcher: Any) -> CogVideoXModel:
    """The CogVideoX model in a MODEL. Raises: ValueError if it is another one."""
    model = patcher.model
    if not isinstance(model, CogVideoXModel):
        raise ValueError(f"a MODEL of type {type(model).__name__}; this node takes one from CogVideoX Load Model")
    return model


def _memory_usage_factor(config: TransformerConfig) -> float:
    """ComfyUI's unit (0.01 MiB per latent cell and byte of dtype) for the activations of a forward.

    16 activations of width D for each token, which covers frame_patch x patch_size x patch_size cells: twice what was
    measured on a GPU (docs/memory.md), so that other attention kernels and patches have room.
    """
    cells_per_token = config.frame_patch * config.patch_size**2
    return 16 * config.width / cells_per_token / (0.01 * 1024 * 1024)
