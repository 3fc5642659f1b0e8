"""`cogvideox PROMPT`: from options to a video file.

What does not fit is refused as early as it can be known: options and the output file first, then sizes and pictures
against the headers of the checkpoint; only then are models loaded.
"""

from __future__ import annotations

import logging
import math
import secrets
from argparse import Namespace
from collections.abc import Callable, Iterable
from dataclasses import asdict, fields, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..demo import DEMO_GUIDANCE, DEMO_MODELS, DEMO_STEPS
from ..kernels.devices import named_device
from ..models.shapes import VideoSize, longest
from ..models.variants import Variant
from ..pipeline.conditioning import fit_frame
from ..pipeline.folder import LoadOptions, ModelFolder
from ..pipeline.request import Request
from ..pipeline.sources import NO_TEXT_ENCODER
from ..sampling.noise_schedule import NoiseSchedule
from ..videos.background import parse_colour
from ..videos.frame_times import EVERY_FRAME, frames_per_second
from ..videos.reading import Clip, read_clip
from ..videos.video_files import check_codec, check_crf, check_fps, check_writable, write_video
from ..videos.video_io import read_image
from ..weights.dtypes import named_dtype
from ..weights.lora import LoRAFile, read_lora, weight_shapes
from ..weights.places.hub_cache import repository_of
from ..weights.places.names import locate
from ..weights.quantize import check_method
from .embeddings import read_embeddings
from .known_models import list_models
from .options import add_arguments
from .progress_bars import ProgressBars

logger = logging.getLogger("cogvideox")

_SEEDS = 2**64


def make_video(options: Namespace) -> Path | str:
    """Make the video that the options ask for. Returns: the file that was written; a list of names where one is asked
    for."""
    if options.listed:
        return list_models(options.listed)
    output = check_writable(options.output or _free_name())
    check_codec(options.codec, output)
    _check_options(options)
    options.seed = _given(options.seed, secrets.randbelow(2**32))
    folder = ModelFolder.open(
        options.model or _demo(options), vae=options.vae, text_encoder=NO_TEXT_ENCODER if options.embeds else options.t5
    )
    request, clip = _request(options, folder)
    size = request.check(folder.transformer.config, folder.variant)
    shapes = weight_shapes(folder.transformer.state_dict)
    loras = [(read_lora(path, shapes), path, strength) for path, strength in map(_lora, options.lora)]
    _check_quantizable(loras, options.quantize)

    num_steps = _num_steps(request, folder.variant)
    fps = _given(options.fps, folder.variant.defaults.fps if clip is None else clip.fps)
    check_fps(fps, output)
    settings = _settings(options, request, folder.variant, size, fps)
    logger.info(_summary(settings))
    if clip is not None:
        logger.info("%s: %s", settings["video"], clip)
    names = [field.name for field in fields(LoadOptions)]
    pipeline = folder.load(LoadOptions(**{name: getattr(options, name) for name in names}))
    for file, path, strength in loras:
        file.apply(pipeline.transformer, strength)
        logger.info("LoRA %s at strength %g: %s", path.name, strength, file.report())
    settings["dtype"] = str(pipeline.dtype).removeprefix("torch.")
    with ProgressBars(num_steps, size.num_frames) as bars:
        chunks = pipeline.stream(request, callback=bars.update)
        return write_video(output, bars.writing(chunks), fps, settings, crf=options.crf, codec=options.codec)


def _num_steps(request: Request, variant: Variant) -> int:
    """Sampling steps of the request; a given video skips the first ones."""
    strength = 1.0 if request.video is None else request.strength
    return len(NoiseSchedule(variant.schedule).steps(request.num_inference_steps, strength))


def _check_options(options: Namespace) -> None:
    """What can be known without any file. Raises: ValueError."""
    if options.fps is not None:
        check_fps(options.fps)
    if options.dtype is not None:
        named_dtype(options.dtype)
    check_crf(options.crf)
    check_method(options.quantize)
    parse_colour(options.background)
    for argument in ("device", "text_encoder_device"):
        if (name := getattr(options, argument)) is not None:
            named_device(name, argument)
    if options.seed is not None and not 0 <= options.seed < _SEEDS:
        raise ValueError(f"--seed {options.seed}; a seed is a whole number from 0 to {_SEEDS - 1}")
    if options.t5 == NO_TEXT_ENCODER:
        raise ValueError(f"--t5 {options.t5} for a prompt; give a T5, or --embeds in place of PROMPT")
    if options.embeds and (options.prompt is not None or options.negative_prompt or options.t5):
        raise ValueError("--embeds, which takes the place of PROMPT, --negative-prompt and --t5; leave those out")
    if options.strength is not None and options.video is None:
        raise ValueError(
            f"--strength {options.strength:g} without a video to start from; give --video, or leave it out"
        )


def _demo(options: Namespace) -> Path:
    """The demo model that takes what is given."""
    return DEMO_MODELS["image-to-video" if options.image or options.last_image else "text-to-video"]


def _lora(text: str) -> tuple[Path, float]:
    """FILE or FILE:STRENGTH; a colon may belong to the file's name, or to a drive."""
    path, colon, strength = text.rpartition(":")
    if not colon or "/" in strength or "\\" in strength or Path(text).exists():
        return locate(text, "lora"), 1.0
    try:
        number = float(strength)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"--lora {text}; a strength is a number, such as 0.8")
    return locate(path, "lora"), number


def _check_quantizable(loras: Iterable[tuple[LoRAFile, Path, float]], method: str) -> None:
    for file, path, _ in loras:
        if method == "llm.int8" and not file.is_sum:
            raise ValueError(
                f"--lora {path} ({', '.join(file.kinds)}) changes weights, which --quantize llm.int8 cannot show; use "
                "--quantize int8, or leave it out"
            )


def _request(options: Namespace, folder: ModelFolder) -> tuple[Request, Clip | None]:
    """The run that the options ask for, and the clip that it starts from, read once all else is known to fit."""
    request = _without_video(options, folder.variant)
    if not options.video:
        return request, None
    clip = _read_clip(options, folder, request.check(folder.transformer.config, folder.variant))
    return replace(request, video=clip.frames), clip


def _without_video(options: Namespace, variant: Variant) -> Request:
    """What the options ask for, with the variant's defaults."""
    defaults = variant.defaults
    picture = partial(read_image, background=options.background)
    embeds = read_embeddings(options.embeds) if options.embeds else None
    return Request(
        prompt=options.prompt,
        prompt_embeds=embeds and embeds.prompt,
        negative_prompt=options.negative_prompt,
        negative_prompt_embeds=embeds and embeds.negative,
        image=picture(options.image) if options.image else None,
        last_image=picture(options.last_image) if options.last_image else None,
        strength=_given(options.strength, Request.strength),
        height=options.height,
        width=options.width,
        num_frames=options.frames,
        num_inference_steps=_given(options.steps, defaults.num_inference_steps if options.model else DEMO_STEPS),
        guidance_scale=_given(options.guidance, defaults.guidance_scale if options.model else DEMO_GUIDANCE),
        use_dynamic_cfg=_given(options.dynamic_cfg, defaults.use_dynamic_cfg),
        sampler=_given(options.sampler, defaults.sampler),
        generator=torch.Generator().manual_seed(options.seed),
        image_fit=options.fit,
        allow_any_size=options.any_size,
        position_table=options.position_table,
        vae_tiling=options.vae_tiling,
        cache_budget=options.cache_budget,
        teacache=options.teacache,
        guidance_until=options.guidance_until,
    )


def _read_clip(options: Namespace, folder: ModelFolder, size: VideoSize) -> Clip:
    """As many frames of --video as are asked for, or as the model takes; each in the size of the new video."""
    clip = read_clip(
        options.video,
        fps=frames_per_second(options.video_fps, folder.variant.defaults.fps),
        max_frames=_given(options.frames, longest(folder.transformer.config, folder.variant)),
        background=options.background,
        prepare=partial(fit_frame, size=size, fit=options.fit),
    )
    there = clip.frames.shape[2]
    if options.frames is not None and there < options.frames:
        every = "" if options.video_fps == EVERY_FRAME else f", or for every frame with --video-fps {EVERY_FRAME}"
        raise ValueError(
            f"{options.video} has {clip} for --frames {options.frames}; ask for at most --frames {there}{every}"
        )
    return clip


def _settings(options: Namespace, request: Request, variant: Variant, size: VideoSize, fps: float) -> dict[str, Any]:
    """What the file says about how it was made; files by their names alone, without their folders."""
    settings: dict[str, Any] = {
        "software": f"cogvideox-nodes {__version__}",
        "model": _shown_name(options.model) if options.model else "demo",
        "variant": variant.name,
        "prompt": options.prompt,
        "negative_prompt": options.negative_prompt,
        "width": size.width,
        "height": size.height,
        "num_frames": size.num_frames,
        "fps": fps,
        "num_inference_steps": request.num_inference_steps,
        "guidance_scale": request.guidance_scale,
        "use_dynamic_cfg": request.use_dynamic_cfg,
        "sampler": request.sampler,
        "seed": options.seed,
    }
    settings |= {
        name: value for name, value in asdict(request.approximation).items() if not request.approximation.exact
    }
    pictures = {name: getattr(options, name) for name in ("image", "last_image", "video", "embeds")}
    settings |= {name: Path(file).name for name, file in pictures.items() if file}
    settings |= {name: _shown_name(path) for name, path in (("vae", options.vae), ("t5", options.t5)) if path}
    if options.embeds:
        settings |= read_embeddings(options.embeds).texts
    if options.lora:
        settings["loras"] = {path.name: strength for path, strength in map(_lora, options.lora)}
    if options.quantize != "none":
        settings["quantize"] = options.quantize
    return settings | ({"strength": request.strength, "video_fps": options.video_fps} if options.video else {})


def _shown_name(path: str) -> str:
    """A model's name without its folders; that of its repository for what is in Hugging Face's cache."""
    return repository_of(Path(path)) or Path(path).resolve().name


def _summary(settings: dict[str, Any]) -> str:
    guidance = f"{'dynamic ' if settings['use_dynamic_cfg'] else ''}guidance {settings['guidance_scale']:g}"
    return (
        f"{settings['variant']}: {settings['width']}x{settings['height']}, {settings['num_frames']} frames at "
        f"{settings['fps']:g} fps, {settings['num_inference_steps']} steps of {settings['sampler']}, {guidance}, "
        f"seed {settings['seed']}"
    )


def _given(value: Any, default: Any) -> Any:
    """An option's value, or the default where it was left out."""
    return default if value is None else value


def _free_name() -> Path:
    """cogvideox.mp4 in the current folder, or the first free one of cogvideox-2.mp4, cogvideox-3.mp4, ..."""
    names = (Path(f"cogvideox-{number}.mp4" if number > 1 else "cogvideox.mp4") for number in count(1))
    return next(name for name in names if not name.exists())


COMMANDS: dict[str, tuple[Callable[..., None], Callable[[Namespace], object]]] = {"": (add_arguments, make_video)}
"""The command without a name: what it takes, and what it does."""
