"""The nodes, in menu order. A node validates, translates, calls one core function, and wraps."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .conditioning import CogVideoXControl, CogVideoXEmptyLatent, CogVideoXImageToVideo, CogVideoXInpaint
from .host.features.installation import install_features
from .loaders import CogVideoXLoadModel, CogVideoXLoadT5, CogVideoXLoadVAE
from .lora import CogVideoXLoadLoRA
from .quantize import CogVideoXQuantizeINT8
from .sampling import CogVideoXSampler, CogVideoXSamplerSelect, CogVideoXScheduler, CogVideoXSpeed
from .text import CogVideoXT5Encode
from .vae import CogVideoXVAEDecode, CogVideoXVAEEncode
from .video import CogVideoXVideoPlayer

NODES: list[type[io.ComfyNode]] = [
    CogVideoXLoadModel,
    CogVideoXLoadVAE,
    CogVideoXLoadT5,
    CogVideoXLoadLoRA,
    CogVideoXQuantizeINT8,
    CogVideoXT5Encode,
    CogVideoXEmptyLatent,
    CogVideoXImageToVideo,
    CogVideoXControl,
    CogVideoXInpaint,
    CogVideoXVAEEncode,
    CogVideoXVAEDecode,
    CogVideoXSampler,
    CogVideoXScheduler,
    CogVideoXSamplerSelect,
    CogVideoXSpeed,
    CogVideoXVideoPlayer,
]


class CogVideoXExtension(ComfyExtension):
    """What ComfyUI asks of a pack."""

    async def on_load(self) -> None:
        install_features()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
