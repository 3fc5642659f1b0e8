"""Pixel to latent arithmetic, and which sizes and frame counts fit a model.

Letters: B batch, F pixel frames, T latent frames, C channels, H W rows and columns.
"""

from __future__ import annotations

from .config import PositionTable, TransformerConfig, VAEConfig
from .sizes import LatentSize, VideoSize
from .variants import Variant

LARGEST_SIDE = 4096  # pixels; far beyond what any model was trained at, and below what fills every memory


def latent_frames(num_frames: int, variant: Variant) -> int:
    """Latent frames of a clip: the first frame alone, then one per four."""
    return (num_frames - 1) // variant.vae.temporal_compression_ratio + 1


def computed_frames(num_frames: int, vae: VAEConfig) -> int:
    """The frames that are computed for a video of any length: the next 8n+1. What is too much is cut off."""
    return num_frames + (1 - num_frames) % frame_group(vae)


def nearest_computed(num_frames: int, vae: VAEConfig) -> list[int]:
    """The lengths 8n+1 around a length, of videos with more than one frame."""
    above = computed_frames(num_frames, vae)
    return [length for length in (above - frame_group(vae), above) if length > 1]


def frame_group(vae: VAEConfig) -> int:
    """Frames that are computed together: 8, two latent frames."""
    return 2 * vae.temporal_compression_ratio


def latent_size(size: VideoSize, config: TransformerConfig, variant: Variant) -> LatentSize:
    """What the transformer works on for a video of this size, of any length."""
    frames = latent_frames(computed_frames(size.num_frames, variant.vae), variant)
    leading = -frames % config.frame_patch
    ratio = variant.vae.spatial_compression_ratio
    return LatentSize(frames + leading, size.height // ratio, size.width // ratio, leading)


def default_size(config: TransformerConfig, variant: Variant) -> VideoSize:
    """The size to ask for when the user asks for none: the released model's, or the training size of another."""
    row, defaults = variant.transformer, variant.defaults
    released = (config.sample_height, config.sample_width) == (row.sample_height, row.sample_width)
    frames = defaults.num_frames if config.sample_frames == row.sample_frames else config.sample_frames
    if released:
        return VideoSize(defaults.height, defaults.width, frames)
    ratio = variant.vae.spatial_compression_ratio
    return VideoSize(config.sample_height * ratio, config.sample_width * ratio, frames)


def size_steps(config: TransformerConfig, variant: Variant) -> tuple[int, int]:
    """What sides are multiples of, in pixels, and what frame counts grow by: 16 and 8 for every released model."""
    return variant.vae.spatial_compression_ratio * config.patch_size, frame_group(variant.vae)


def longest(config: TransformerConfig, variant: Variant) -> int:
    """The most frames that the model was trained for."""
    return max(variant.max_frames, config.sample_frames)


def check_size(
    size: VideoSize,
    config: TransformerConfig,
    variant: Variant,
    *,
    allow_any_size: bool = False,
    position_table: PositionTable = "trained",
    there: int | None = None,
) -> None:
    """Refuse a size or frame count the model cannot make a video of.

    Args:
        allow_any_size: lift the limits of training; what the arithmetic demands stays.
        position_table: what becomes of a learned one: only as trained it has a size.
        there: how many frames a given video has; no more are advised.
    Raises: ValueError that says what came, what fits and what to do.
    """
    _check_sides(size, config, variant)
    if size.num_frames < 1:
        raise ValueError(f"num_frames={size.num_frames}; a video has at least 1 frame")
    most = longest(config, variant)
    if size.num_frames > most and not allow_any_size:
        raise ValueError(
            f"num_frames={size.num_frames}; {variant.name} was trained for up to {most} frames; use {most}, or allow "
            "longer videos (allow_any_size)"
        )
    if config.use_learned_positional_embeddings and position_table == "trained":
        _check_table_size(size, config, variant, there)


def size_advice(size: VideoSize, config: TransformerConfig, variant: Variant) -> str | None:
    """What to know of a size that is possible but not one the model was trained at, in sentences; None if it is."""
    advice = [_length_advice(size, config, variant), _picture_advice(size, config, variant)]
    return ". ".join(sentence for sentence in advice if sentence) or None


def _length_advice(size: VideoSize, config: TransformerConfig, variant: Variant) -> str | None:
    most = longest(config, variant)
    if size.num_frames <= most:
        return None
    return (
        f"{size.num_frames} frames are more than the {most} that {variant.name} was trained for: without a LoRA for "
        "such a length, or context windows, the video may fall apart"
    )


def _picture_advice(size: VideoSize, config: TransformerConfig, variant: Variant) -> str | None:
    trained = default_size(config, variant)
    short, long = sorted((size.height, size.width))
    trained_short, trained_long = sorted((trained.height, trained.width))
    any_shape = config.patch_size_t is not None and variant.conditioning == "image"
    if any_shape and short == trained_short and long <= trained_long:
        return None
    if (size.height, size.width) == (trained.height, trained.width):
        return None
    return (
        f"{size.width}x{size.height} is not the size {variant.name} was trained at ({trained.width}x{trained.height}); "
        "the picture may suffer"
    )


def _check_sides(size: VideoSize, config: TransformerConfig, variant: Variant) -> None:
    multiple, _ = size_steps(config, variant)
    for name, pixels in (("height", size.height), ("width", size.width)):
        if not multiple <= pixels <= LARGEST_SIDE or pixels % multiple:
            nearest = min(max(round(pixels / multiple), 1) * multiple, LARGEST_SIDE)
            raise ValueError(
                f"{name}={pixels}; {variant.name} takes multiples of {multiple} up to {LARGEST_SIDE}; use {nearest}"
            )


def _check_table_size(size: VideoSize, config: TransformerConfig, variant: Variant, there: int | None) -> None:
    """Refuse what a learned position table is not for."""
    ratio = variant.vae.spatial_compression_ratio
    height, width = config.sample_height * ratio, config.sample_width * ratio
    if (size.height, size.width) != (height, width):
        raise ValueError(
            f"{size.width}x{size.height}; {variant.name} has a learned position table for {width}x{height} only; "
            f"use width {width} and height {height}, or have the table interpolated or omitted (position_table)"
        )
    if computed_frames(size.num_frames, variant.vae) != config.sample_frames:
        use = "use" if there is None or there >= config.sample_frames else "give a video of"
        raise ValueError(
            f"num_frames={size.num_frames}; {variant.name} has a learned position table for exactly "
            f"{config.sample_frames} frames; {use} {config.sample_frames}, or have the table interpolated or omitted "
            "(position_table)"
        )
