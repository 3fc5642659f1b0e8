"""The released CogVideoX models, and those made from them, as rows of data; everything in which they differ is here.

Code asks what a model *has* (`config.patch_size_t`, `config.image_channels`), never what it is called. A new model is
a new row plus a golden file in `tests/golden`.

Sources: the published `config.json` files as quoted by diffusers' `convert_cogvideox_to_diffusers.py`, the SAT
configuration files of zai-org/CogVideo, and its README for sizes, frame counts and samplers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from .config import ScheduleConfig, TransformerConfig, VAEConfig

SamplerName = Literal["ddim", "dpm"]
Conditioning = Literal["text", "image", "control", "inpaint", "quadmask"]
"""What the channels after the noisy latents hold.

"text": nothing. "image": latents of a first and a last image. "control": latents of a control video. "inpaint": a mask
and the latents of a masked video. "quadmask": latents of a mask video, and of a masked video.
"""


@dataclass(frozen=True)
class Defaults:
    """What to ask for when the user asks for nothing. Height and width are pixels."""

    height: int = 480
    width: int = 720
    num_frames: int = 49
    fps: int = 8
    num_inference_steps: int = 50
    guidance_scale: float = 6.0
    sampler: SamplerName = "dpm"
    use_dynamic_cfg: bool = True
    dtype: str = "bfloat16"


@dataclass(frozen=True)
class Variant:
    """One released model.

    Attributes:
        name: how people call it; for messages and menus only.
        max_frames: most pixel frames it was trained for; legal counts are 8n + 1.
        conditioning: what it is given in addition to the prompt.
        or_conditioning: what weights that are built like it may have been trained to be given instead, where nothing
            says which.
        teacache: TeaCache's polynomial, highest power first (arXiv 2411.19108 and its CogVideoX release). It was fitted
            to the official weights of the five models; what is derived from one has its, for want of another.
    """

    name: str
    transformer: TransformerConfig
    vae: VAEConfig
    schedule: ScheduleConfig
    defaults: Defaults
    max_frames: int
    source: str
    conditioning: Conditioning = "text"
    or_conditioning: Conditioning | None = None
    teacache: tuple[float, ...] = ()

    @property
    def task(self) -> str:
        """What diffusers would call it."""
        return {"text": "text-to-video", "image": "image-to-video"}.get(self.conditioning, "video-to-video")


_5B_TRANSFORMER = TransformerConfig(num_attention_heads=48, num_layers=42)
_15_TRANSFORMER = replace(_5B_TRANSFORMER, patch_size_t=2, sample_height=300, sample_width=300, sample_frames=81)

_5B = Variant(
    name="CogVideoX-5B",
    transformer=_5B_TRANSFORMER,
    vae=VAEConfig(scaling_factor=0.7),
    schedule=ScheduleConfig(snr_shift_scale=1.0),
    defaults=Defaults(),
    max_frames=49,
    source="zai-org/CogVideoX-5b",
    teacache=(-1538.80483, 843.202495, -134.363087, 7.97131516, -0.0523162339),
)
_15_5B = replace(
    _5B,
    name="CogVideoX1.5-5B",
    transformer=_15_TRANSFORMER,
    vae=VAEConfig(scaling_factor=0.7, invert_scale_latents=True),
    # The training size in the config (300 x 300) is no size to ask for; the README's is.
    defaults=Defaults(height=768, width=1360, num_frames=81, fps=16),
    max_frames=161,
    source="zai-org/CogVideoX1.5-5B",
    teacache=(250.210439, -165.061612, 35.7804877, -0.781551492, 0.0358559703),
)

_2B = replace(
    _5B,
    name="CogVideoX-2B",
    transformer=replace(_5B_TRANSFORMER, num_attention_heads=30, num_layers=30, use_rotary_positional_embeddings=False),
    vae=VAEConfig(scaling_factor=1.15258426),
    schedule=ScheduleConfig(snr_shift_scale=3.0),
    defaults=Defaults(sampler="ddim", use_dynamic_cfg=False, dtype="float16"),
    source="zai-org/CogVideoX-2b",
    teacache=(-31.0658903, 25.4732368, -5.92380459, 1.75769064, -0.00361568434),
)

_ROWS = (
    _2B,
    _5B,
    replace(
        _5B,
        name="CogVideoX-5B-I2V",
        transformer=replace(_5B_TRANSFORMER, in_channels=32, use_learned_positional_embeddings=True),
        source="zai-org/CogVideoX-5b-I2V",
        conditioning="image",
    ),
    _15_5B,
    replace(
        _15_5B,
        name="CogVideoX1.5-5B-I2V",
        transformer=replace(_15_TRANSFORMER, in_channels=32, ofs_embed_dim=512),
        source="zai-org/CogVideoX1.5-5B-I2V",
        conditioning="image",
        teacache=(122.842302, -104.088754, 26.2981677, -0.306009921, 0.037121322),
    ),
)

VARIANTS: dict[str, Variant] = {row.name: row for row in _ROWS}
"""The five released models."""


def _derived(base: Variant, name: str, conditioning: Conditioning, in_channels: int, source: str) -> Variant:
    """A model that differs from `base` in the channels after the noisy latents."""
    transformer = replace(base.transformer, in_channels=in_channels)
    return replace(base, name=name, transformer=transformer, conditioning=conditioning, source=source)


_FUN_15 = _derived(_15_5B, "CogVideoX-Fun-V1.5-5B-InP", "inpaint", 33, "alibaba-pai/CogVideoX-Fun-V1.5-5b-InP")
_FUN_15 = replace(_FUN_15, defaults=replace(_FUN_15.defaults, height=384, width=672, fps=8), max_frames=85)

_DERIVED_ROWS = (
    _derived(_2B, "CogVideoX-Fun-2B-InP", "inpaint", 33, "alibaba-pai/CogVideoX-Fun-V1.1-2b-InP"),
    _derived(_5B, "CogVideoX-Fun-5B-InP", "inpaint", 33, "alibaba-pai/CogVideoX-Fun-V1.1-5b-InP"),
    _FUN_15,
    # NimVideo's 2B is built the same: its control video is one image on every frame.
    _derived(_2B, "CogVideoX-Fun-2B-Control", "control", 32, "alibaba-pai/CogVideoX-Fun-V1.1-2b-Control"),
    replace(
        _derived(_5B, "CogVideoX-Fun-5B-Control", "control", 32, "alibaba-pai/CogVideoX-Fun-V1.1-5b-Control"),
        or_conditioning="image",
    ),
    # What fine-tuning without the table leaves; it is built like the row before.
    _derived(_5B, "CogVideoX-5B-I2V without its position table", "image", 32, "zai-org/CogVideoX-5b-I2V, fine-tuned"),
    replace(
        _derived(_FUN_15, "VOID", "quadmask", 48, "VOID, void_pass1.safetensors"),
        defaults=replace(_FUN_15.defaults, fps=12),
        max_frames=197,
    ),
)

DERIVED: dict[str, Variant] = {row.name: row for row in _DERIVED_ROWS}
"""Models that others made from them. Sources: their configurations as quoted in VideoX-Fun and in ComfyUI's nodes."""


def rows_like(config: TransformerConfig) -> list[Variant]:
    """The rows that are built like `config`, at any size; several where weights do not show what they were trained to
    be given."""
    return [row for row in (*VARIANTS.values(), *DERIVED.values()) if _build(row.transformer) == _build(config)]


def taking(variant: Variant, conditioning: Conditioning) -> Variant | None:
    """`variant` if it is given this, or the row it may be as well, with its schedule and VAE; None if it is neither."""
    if conditioning == variant.conditioning:
        return replace(variant, or_conditioning=None) if variant.or_conditioning else variant
    if conditioning != variant.or_conditioning:
        return None
    other = next(row for row in rows_like(variant.transformer) if row.conditioning == conditioning)
    return replace(other, schedule=variant.schedule, vae=variant.vae)


def _build(config: TransformerConfig) -> tuple[object, ...]:
    """What distinguishes the variants at any size."""
    return (
        config.patch_size_t,
        divmod(config.in_channels, config.out_channels),
        config.use_rotary_positional_embeddings,
        config.use_learned_positional_embeddings,
        config.ofs_embed_dim is not None,
    )
