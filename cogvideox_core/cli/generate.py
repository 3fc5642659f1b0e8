"""`cogvideox PROMPT`: from options to a video file.

What does not fit is refused as early as it can be known: options and the output file first, then sizes and pictures
against the headers of the checkpoint; only then are models loaded.
"""

from __future__ import annotations

import logging
import math
import secrets
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..demo import DEMO_GUIDANCE, DEMO_MODELS, DEMO_STEPS
from ..models.shapes import VideoSize
from ..models.variants import Variant
from ..pipeline.folder import ModelFolder
from ..pipeline.request import Request
from ..sampling.noise_schedule import NoiseSchedule
from ..videos.video_files import check_crf, check_fps, check_writable, write_video
from ..videos.video_io import read_image, read_video
from ..weights.dtypes import named_dtype
from ..weights.lora import read_lora, weight_shapes
from ..weights.quantize import check_method
from .options import add_arguments
from .progress_bars import ProgressBars

logger = logging.getLogger("cogvideox")

_SEEDS = 2**64


def make_video(options: Namespace) -> Path:
    """Make the video that the options ask for. Returns: the file that was written."""
    output = check_writable(options.output or _free_name())
    _check_options(options)
    options.seed = _given(options.seed, secrets.randbelow(2**32))
    folder = ModelFolder.open(options.model or _demo(options))
    request, fps = _request(options, folder.variant)
    check_fps(fps, output)
    size = request.check(folder.transformer.config, folder.variant)
    shapes = weight_shapes(folder.transformer.state_dict)
    loras = [(read_lora(path, shapes), path, strength) for path, strength in map(_lora, options.lora)]

    num_steps = _num_steps(request, folder.variant)
    settings = _settings(options, request, folder.variant, size, fps)
    logger.info(_summary(settings))
    pipeline = folder.load(
        dtype=options.dtype,
        device=options.device,
        quantize=options.quantize,
        attention=options.attention,
        compile=options.compile,
        low_memory=options.low_memory,
    )
    for file, path, strength in loras:
        file.apply(pipeline.transformer, strength)
        logger.info("LoRA %s at strength %g: %s", path.name, strength, file.report())
    settings["dtype"] = str(pipeline.dtype).removeprefix("torch.")
    with ProgressBars(num_steps, size.num_frames) as bars:
        chunks = pipeline.stream(request, callback=bars.update)
        return write_video(output, bars.writing(chunks), fps, settings, crf=options.crf)


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
    if options.device is not None:
        _check_device(options.device)
    if options.seed is not None and not 0 <= options.seed < _SEEDS:
        raise ValueError(f"--seed {options.seed}; a seed is a whole number from 0 to {_SEEDS - 1}")
    if options.strength is not None and options.video is None:
        raise ValueError(
            f"--strength {options.strength:g} without a video to start from; give --video, or leave it out"
        )


def _check_device(name: str) -> None:
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"--device {name}; there is no such kind; use cpu, cuda, cuda:1 or mps") from None
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (device.index or 0) >= there.get(device.type, 0):
        usable = ", ".join(kind for kind, number in there.items() if number)
        raise ValueError(f"--device {name}; this machine, or this build of PyTorch, has no such device; use {usable}")


def _demo(options: Namespace) -> Path:
    """The demo model that takes what is given."""
    return DEMO_MODELS["image-to-video" if options.image or options.last_image else "text-to-video"]


def _lora(text: str) -> tuple[Path, float]:
    """FILE or FILE:STRENGTH; a colon may belong to the file's name, or to a drive."""
    path, colon, strength = text.rpartition(":")
    if not colon or "/" in strength or "\\" in strength or Path(text).exists():
        return Path(text), 1.0
    try:
        number = float(strength)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"--lora {text}; a strength is a number, such as 0.8")
    return Path(path), number


def _request(options: Namespace, variant: Variant) -> tuple[Request, float]:
    """The run that the options ask for, with the variant's defaults, and its frames per second."""
    defaults = variant.defaults
    video, video_fps = _read_clip(options, variant) if options.video else (None, defaults.fps)
    request = Request(
        prompt=options.prompt,
        negative_prompt=options.negative_prompt,
        image=read_image(options.image) if options.image else None,
        last_image=read_image(options.last_image) if options.last_image else None,
        video=video,
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
        vae_tiling=options.vae_tiling,
        cache_budget=options.cache_budget,
        teacache=options.teacache,
        guidance_until=options.guidance_until,
    )
    return request, _given(options.fps, video_fps)


def _read_clip(options: Namespace, variant: Variant) -> tuple[torch.Tensor, float]:
    """As many frames of --video as are asked for, and no more than the model can take, since each costs memory."""
    most = variant.max_frames
    video, fps = read_video(options.video, max_frames=options.frames or most + 1)
    if options.frames is None and video.shape[2] > most:
        raise ValueError(
            f"{options.video} has more frames than the {most} of {variant.name}; ask for its beginning with "
            f"--frames {most}"
        )
    return video, fps


def _settings(options: Namespace, request: Request, variant: Variant, size: VideoSize, fps: float) -> dict[str, Any]:
    """What the file says about how it was made; files by their names alone, without their folders."""
    settings: dict[str, Any] = {
        "software": f"cogvideox-nodes {__version__}",
        "model": Path(options.model).resolve().name if options.model else "demo",
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
    pictures = {name: getattr(options, name) for name in ("image", "last_image", "video")}
    settings |= {name: Path(file).name for name, file in pictures.items() if file}
    if options.lora:
        settings["loras"] = {path.name: strength for path, strength in map(_lora, options.lora)}
    if options.quantize != "none":
        settings["quantize"] = options.quantize
    return settings | ({"strength": request.strength} if options.video else {})


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
