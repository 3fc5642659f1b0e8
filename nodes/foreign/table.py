"""What becomes of the CogVideoX wrapper's 25 nodes, as rows: the one table that everything about them is read from.

Source: ids, inputs, their order and defaults as of its commit fdb8abd, and the older orders in its own examples.
docs/foreign-workflows.md is printed from these rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from .names import CONTEXT_SCHEDULES, PRECISIONS, QUANTIZATIONS, SCHEDULERS

_COMFYUI_DOES_IT = "not needed: ComfyUI decides where weights are kept"
_ALL_BLOCKS = "the whole transformer computes"


class Socket(NamedTuple):
    """An input that is always a link. `to`: what takes it, in words; `lost`: why nothing does."""

    name: str
    to: str = ""
    lost: str = ""


class Widget(NamedTuple):
    """An input with a value. `to`: where the value goes, in words.

    `lost`: what is said where the value is not `kept`, which is the default where nothing else is said.
    """

    name: str
    default: Any
    to: str = ""
    lost: str = ""
    kept: tuple[Any, ...] = ()

    def is_lost(self, value: Any) -> bool:
        """Whether a value of it has no counterpart; a link's value may not have one."""
        return bool(self.lost) and value not in (*self.kept, self.default)


Input = Socket | Widget


class Exchange(NamedTuple):
    """A replacement node for node, as ComfyUI's registry of replacements knows it.

    Only inputs that every prompt has are in it: for one that is missing, ComfyUI raises KeyError.

    `inputs`: theirs to ours. `constants`: of ours. `outputs`: the index of ours for each of theirs that has one.
    """

    node: str
    inputs: dict[str, str]
    outputs: dict[int, int]
    constants: dict[str, Any] = {}


class ForeignNode(NamedTuple):
    """A node of the wrapper.

    `becomes`: what does its work here, in words; empty if nothing does. `lost`: then, what is missing.
    `changes_result`: whether the video is another one without it, so that a prompt is refused rather than run.
    `former`: widgets of versions before, in their order; a value of another type than today's tells them.
    """

    id: str
    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]
    becomes: str = ""
    exchange: Exchange | None = None
    lost: str = ""
    changes_result: bool = True
    former: tuple[str, ...] = ()

    @property
    def widgets(self) -> list[Widget]:
        """The inputs with values, in the order workflows keep the values in."""
        return [one for one in self.inputs if isinstance(one, Widget)]

    def widget_ids(self) -> list[str]:
        """Names of the values a workflow keeps, with the control that the canvas puts behind a seed."""
        names: list[str] = []
        for widget in self.widgets:
            names += (widget.name, "control_after_generate") if widget.name == "seed" else (widget.name,)
        return names

    def defaults(self) -> Iterator[tuple[str, Any]]:
        """Names and values of the widgets, for a node that does not say them."""
        return ((widget.name, widget.default) for widget in self.widgets)


_LOADER_INPUTS = (
    Widget(
        "quantization",
        "disabled",
        "torchao_int8dq: CogVideoX Quantize INT8",
        "weights stay in their precision; CogVideoX Quantize INT8 halves their memory",
        kept=tuple(QUANTIZATIONS),
    ),
    Widget("enable_sequential_cpu_offload", False, _COMFYUI_DOES_IT),
)
_BLOCK_EDIT = Socket("block_edit", lost=_ALL_BLOCKS)
_LORA = Socket("lora", "CogVideoX Load LoRA behind the loader, one for each")
_COMPILE = Socket("compile_args", "TorchCompileModel behind the loader")
_ATTENTION = Widget(
    "attention_mode",
    "sdpa",
    lost="attention is ComfyUI's choice; start it with --use-sage-attention for SageAttention",
    kept=("comfy", "fused_sdpa"),
)
_LOAD_DEVICE = Widget("load_device", "main_device", _COMFYUI_DOES_IT)
_TILING = Widget("enable_tiling", False, "tiling of CogVideoX VAE Encode; single images need none")
_NOISE_AUGMENTATION = Widget("noise_aug_strength", 0.0, lost="no noise is put on the image")
_WINDOW = (
    Widget("start_percent", 0.0, lost="the image counts in all steps"),
    Widget("end_percent", 1.0, lost="the image counts in all steps"),
)
_LORA_INPUTS = (
    Widget("lora", "", "lora_name"),
    Widget("strength", 1.0, "strength"),
    Socket("prev_lora", "a CogVideoX Load LoRA before it"),
    Widget("fuse_lora", False, "divide_by_rank for DimensionX's files; else not needed, the video is the same"),
)
_NO_CONTROLNET = "there is no ControlNet for CogVideoX in this pack; CogVideoX-Fun Control models follow a video"
_NO_TORA = "there is no Tora in this pack"

TABLE: tuple[ForeignNode, ...] = (
    ForeignNode(
        "DownloadAndLoadCogVideoModel",
        (
            Widget("model", "THUDM/CogVideoX-2b", "model_name and vae_name: the folder of that name, if it is there"),
            Widget("precision", "bf16", "weight_dtype", kept=tuple(PRECISIONS)),
            *_LOADER_INPUTS,
            _BLOCK_EDIT,
            _LORA,
            _COMPILE,
            _ATTENTION,
            _LOAD_DEVICE,
        ),
        ("model", "vae"),
        "CogVideoX Load Model, CogVideoX Load VAE",
        Exchange("CogVideoXLoadModel", {"model": "model_name"}, {0: 0}),
    ),
    ForeignNode(
        "DownloadAndLoadCogVideoGGUFModel",
        (
            Widget("model", "CogVideoX_5b_GGUF_Q4_0.safetensors", "model_name: the file of that name"),
            Widget("vae_precision", "bf16", "not needed: ComfyUI chooses the VAE's precision"),
            Widget("fp8_fastmode", False, lost="blocks of 4 bits are multiplied in the precision of the run"),
            _LOAD_DEVICE,
            Widget("enable_sequential_cpu_offload", False, _COMFYUI_DOES_IT),
            _BLOCK_EDIT,
            Widget("attention_mode", "sdpa", lost=_ATTENTION.lost),
        ),
        ("model", "vae"),
        "CogVideoX Load Model, CogVideoX Load VAE",
        Exchange("CogVideoXLoadModel", {"model": "model_name"}, {0: 0}),
    ),
    ForeignNode(
        "CogVideoXModelLoader",
        (
            Widget("model", "", "model_name"),
            Widget("base_precision", "bf16", "weight_dtype", kept=tuple(PRECISIONS)),
            _LOADER_INPUTS[0],
            _LOAD_DEVICE,
            _LOADER_INPUTS[1],
            _BLOCK_EDIT,
            _LORA,
            _COMPILE,
            _ATTENTION,
        ),
        ("model",),
        "CogVideoX Load Model",
        Exchange("CogVideoXLoadModel", {"model": "model_name"}, {0: 0}),
    ),
    ForeignNode(
        "CogVideoXVAELoader",
        (
            Widget("model_name", "", "vae_name"),
            Widget("precision", "bf16", "not needed: ComfyUI chooses the VAE's precision"),
            Socket("compile_args", lost="the VAE is not compiled"),
        ),
        ("vae",),
        "CogVideoX Load VAE",
        Exchange("CogVideoXLoadVAE", {"model_name": "vae_name"}, {0: 0}),
    ),
    ForeignNode("CogVideoLoraSelect", _LORA_INPUTS, ("lora",), "CogVideoX Load LoRA"),
    ForeignNode("CogVideoLoraSelectComfy", _LORA_INPUTS, ("lora",), "CogVideoX Load LoRA"),
    ForeignNode(
        "CogVideoXTorchCompileSettings",
        (
            Widget("backend", "inductor", "backend"),
            Widget("fullgraph", False, lost="TorchCompileModel has no such choice"),
            Widget("mode", "default", lost="TorchCompileModel has no such choice"),
            Widget("dynamic", False, lost="TorchCompileModel has no such choice"),
            Widget("dynamo_cache_size_limit", 64, "not needed: compiled code is kept by ComfyUI's rules"),
        ),
        ("torch_compile_args",),
        "TorchCompileModel",
    ),
    ForeignNode(
        "CogVideoTextEncode",
        (
            Socket("clip", "clip"),
            Widget("prompt", "", "text, with prompt_weights on: brackets weigh words there"),
            Widget("strength", 1.0, lost="embeddings keep their size; put weights into the prompt"),
            Widget("force_offload", True, _COMFYUI_DOES_IT),
        ),
        ("conditioning", "clip"),
        "CogVideoX T5 Encode; what took its clip takes the loader's",
        Exchange("CogVideoXT5Encode", {"clip": "clip", "prompt": "text"}, {0: 0}, constants={"prompt_weights": True}),
    ),
    ForeignNode(
        "CogVideoTextEncodeCombine",
        (
            Socket("conditioning_1", "conditioning_from"),
            Socket("conditioning_2", "conditioning_to"),
            Widget(
                "combination_mode",
                "weighted_average",
                "ConditioningConcat for concatenate, else ConditioningAverage",
            ),
            Widget("weighted_average_ratio", 0.5, "conditioning_to_strength, up to 1"),
        ),
        ("conditioning",),
        "ConditioningAverage, ConditioningConcat",
        Exchange(
            "ConditioningAverage",
            {
                "conditioning_1": "conditioning_from",
                "conditioning_2": "conditioning_to",
                "weighted_average_ratio": "conditioning_to_strength",
            },
            {0: 0},
        ),
    ),
    ForeignNode(
        "CogVideoImageEncode",
        (
            Socket("vae", "vae"),
            Socket("start_image", "start_image, pixels or control_video"),
            Socket("end_image", "end_image"),
            _TILING,
            _NOISE_AUGMENTATION,
            Widget("strength", 1.0, lost="the image latents keep their size"),
            *_WINDOW,
        ),
        ("samples",),
        "CogVideoX Image to Video before a sampler's image_cond_latents, CogVideoX Control for Fun's Control and Pose "
        "models, CogVideoX VAE Encode before its samples",
        Exchange("CogVideoXVAEEncode", {"vae": "vae", "start_image": "pixels"}, {0: 0}),
        former=("chunk_size", "enable_tiling"),
    ),
    ForeignNode(
        "CogVideoImageEncodeFunInP",
        (
            Socket("vae", "vae"),
            Socket("start_image", "start_image"),
            Widget("num_frames", 49, "not needed: the sampler's num_frames counts"),
            Socket("end_image", "end_image"),
            _TILING,
            _NOISE_AUGMENTATION,
        ),
        ("image_cond_latents",),
        "CogVideoX Image to Video with the model linked to it",
    ),
    ForeignNode(
        "CogVideoSampler",
        (
            Socket("model", "model"),
            Socket("positive", "positive"),
            Socket("negative", "negative"),
            Widget("num_frames", 49, "length of the node that makes the latent"),
            Widget("steps", 50, "steps"),
            Widget("cfg", 6.0, "cfg"),
            Widget("seed", 0, "seed"),
            Widget("scheduler", "CogVideoXDDIM", "sampler (the list below)", kept=tuple(SCHEDULERS)),
            Socket("samples", "latent_image; an empty image latent gives width and height"),
            Socket("image_cond_latents", "positive, negative and latent_image, through CogVideoX Image to Video"),
            Widget("denoise_strength", 1.0, "denoise"),
            Socket("context_options", "ContextWindowsManual before the sampler"),
            Socket("controlnet", lost=_NO_CONTROLNET),
            Socket("tora_trajectory", lost=_NO_TORA),
            Socket("fastercache", lost="every step is computed; CogVideoX Speed predicts some"),
            Socket("feta_args", lost="there is no Enhance-A-Video in this pack"),
            Socket("teacache_args", "CogVideoX Speed before the sampler"),
        ),
        ("samples",),
        "CogVideoX Empty Latent and CogVideoX Sampler; SamplerCustom for samplers that are ComfyUI's",
        Exchange(
            "CogVideoXSampler",
            {name: name for name in ("model", "positive", "negative", "steps", "cfg", "seed")},
            {0: 0},
        ),
    ),
    ForeignNode(
        "CogVideoDecode",
        (
            Socket("vae", "vae"),
            Socket("samples", "samples"),
            Widget("enable_vae_tiling", True, "tiling: blended; off: auto, which tiles only where memory asks for it"),
            Widget("tile_sample_min_height", 240, "tile_height"),
            Widget("tile_sample_min_width", 360, "tile_width"),
            Widget(
                "tile_overlap_factor_height",
                0.2,
                lost="tiles overlap as in diffusers, by a sixth of their height and a fifth of their width",
            ),
            Widget(
                "tile_overlap_factor_width",
                0.2,
                lost="tiles overlap as in diffusers, by a sixth of their height and a fifth of their width",
            ),
            Widget("auto_tile_size", True, "tile_width and tile_height 0"),
        ),
        ("images",),
        "CogVideoX VAE Decode",
        Exchange("CogVideoXVAEDecode", {"vae": "vae", "samples": "samples"}, {0: 0}, constants={"tiling": "auto"}),
    ),
    ForeignNode(
        "CogVideoXFunResizeToClosestBucket",
        (
            Socket("images", "image"),
            Widget("base_resolution", 512, "megapixels: a square of that side"),
            Widget("upscale_method", "lanczos", "upscale_method"),
            Widget("crop", "disabled", "not needed: the shape is kept"),
        ),
        ("images", "width", "height"),
        "ImageScaleToTotalPixels in steps of 16, GetImageSize; the shape is kept, not the nearest of a list",
    ),
    ForeignNode(
        "CogVideoXTeaCache",
        (Widget("rel_l1_thresh", 0.3, "teacache, up to 1"),),
        ("teacache_args",),
        "CogVideoX Speed before each sampler",
    ),
    ForeignNode(
        "CogVideoContextOptions",
        (
            Widget("context_schedule", "uniform_standard", "context_schedule", kept=tuple(CONTEXT_SCHEDULES)),
            Widget("context_frames", 48, "context_length, in latent frames: a quarter"),
            Widget("context_stride", 4, "context_stride, likewise"),
            Widget("context_overlap", 4, "context_overlap, likewise"),
            Widget("freenoise", True, "freenoise"),
        ),
        ("context_options",),
        "ContextWindowsManual before each sampler, with fuse_method flat",
    ),
    ForeignNode(
        "CogVideoXFasterCache",
        (
            Widget("start_step", 15),
            Widget("hf_step", 30),
            Widget("lf_step", 40),
            Widget("cache_device", "main_device"),
            Widget("num_blocks_to_cache", 42),
        ),
        ("fastercache",),
        lost="there is no FasterCache in this pack, all is computed; CogVideoX Speed predicts steps",
        changes_result=False,
    ),
    ForeignNode(
        "CogVideoEnhanceAVideo",
        (Widget("weight", 1.0), Widget("start_percent", 0.0), Widget("end_percent", 1.0)),
        ("feta_args",),
        lost="there is no Enhance-A-Video in this pack",
    ),
    ForeignNode(
        "CogVideoTransformerEdit",
        (Widget("remove_blocks", "15, 25, 37"),),
        ("block_list",),
        lost="blocks are not taken out of a model; " + _ALL_BLOCKS,
    ),
    ForeignNode(
        "CogVideoLatentPreview",
        (
            Socket("samples"),
            Widget("seed", 0),
            Widget("min_val", -0.15),
            Widget("max_val", 0.15),
            Widget("r_bias", 0.0),
            Widget("g_bias", 0.0),
            Widget("b_bias", 0.0),
        ),
        ("images", "latent_rgb_factors"),
        lost="there is no node that draws latents; CogVideoX VAE Decode shows them",
        changes_result=False,
    ),
    ForeignNode(
        "DownloadAndLoadCogVideoControlNet",
        (Widget("model", "TheDenk/cogvideox-2b-controlnet-hed-v1"),),
        ("cogvideo_controlnet",),
        lost=_NO_CONTROLNET,
    ),
    ForeignNode(
        "CogVideoControlNet",
        (
            Socket("controlnet"),
            Socket("images"),
            Widget("control_strength", 1.0),
            Widget("control_start_percent", 0.0),
            Widget("control_end_percent", 1.0),
        ),
        ("cogvideo_controlnet",),
        lost=_NO_CONTROLNET,
    ),
    ForeignNode(
        "DownloadAndLoadToraModel", (Widget("model", "kijai/CogVideoX-5b-Tora"),), ("tora_model",), lost=_NO_TORA
    ),
    ForeignNode(
        "ToraEncodeTrajectory",
        (
            Socket("tora_model"),
            Socket("vae"),
            Socket("coordinates"),
            Widget("width", 720),
            Widget("height", 480),
            Widget("num_frames", 49),
            Widget("strength", 1.0),
            Widget("start_percent", 0.0),
            Widget("end_percent", 1.0),
            Widget("enable_tiling", True),
        ),
        ("tora_trajectory", "video_flow_images"),
        lost=_NO_TORA,
    ),
    ForeignNode(
        "ToraEncodeOpticalFlow",
        (
            Socket("vae"),
            Socket("tora_model"),
            Socket("optical_flow"),
            Widget("strength", 1.0),
            Widget("start_percent", 0.0),
            Widget("end_percent", 1.0),
        ),
        ("tora_trajectory",),
        lost=_NO_TORA,
    ),
)
FOREIGN: dict[str, ForeignNode] = {row.id: row for row in TABLE}

# Types of slots on the way between two of their nodes, in Reroute, Set and Get nodes say, and ours.
SLOT_TYPES = {"COGVIDEOMODEL": "MODEL"}
