"""The command `cogvideox`: a prompt, and perhaps pictures, to an mp4.

Whatever does not fit is told in one sentence and exit code 2, as early as it can be known: arguments and the output
file, then sizes and pictures against the headers of the checkpoint, and only then are models loaded.
"""

from __future__ import annotations

import argparse
import logging
import math
import re
import secrets
import signal
import sys
from argparse import BooleanOptionalAction, Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from itertools import count
from pathlib import Path
from typing import Any, NoReturn, Protocol

import torch
from tqdm import tqdm

from .. import __version__
from ..demo import DEMO_GUIDANCE, DEMO_MODELS, DEMO_STEPS
from ..models.shapes import VideoSize
from ..models.transformer.attention import AUTO, BACKENDS
from ..models.vae.memory_plan import TILING_CHOICES
from ..models.variants import Variant
from ..pipeline.folder import check_folder, load_pipeline
from ..pipeline.request import Request
from ..sampling.noise_schedule import NoiseSchedule
from ..sampling.samplers import SAMPLERS
from ..videos.video_io import check_fps, check_writable, read_image, read_video, write_video
from ..weights.dtypes import named_dtype
from ..weights.int8 import METHODS, check_method
from ..weights.lora import load_lora, read_lora, weight_shapes
from .file_commands import COMMANDS
from .progress_bars import ProgressBars

logger = logging.getLogger("cogvideox")

PROGRAM = "cogvideox"
BAD_INPUT = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells count
TERMINATED = 143  # 128 + SIGTERM
_SEEDS = 2**64
# What a sentence of the core calls by the name of its argument, by the option that was typed.
_OPTIONS = {
    "num_frames": "--frames",
    "num_inference_steps": "--steps",
    "guidance_scale": "--guidance",
    "strength": "--strength",
    "cache_budget": "--cache-budget",
    "teacache": "--teacache",
    "guidance_until": "--guidance-until",
    "height": "--height",
    "width": "--width",
    "attention": "--attention",
}
_PHRASES = {"give image": "give --image", "ask for 'crop' or 'stretch'": "ask for --fit crop or --fit stretch"}


def main(argv: list[str] | None = None) -> int:
    """Run the command. Returns: 0; 2 for what does not fit, told in a sentence on stderr; 130 after Ctrl-C."""
    act, options = _parse(sys.argv[1:] if argv is None else argv)
    try:
        with _log_on_stderr(), _tidy_when_terminated():
            print(act(options))
    except KeyboardInterrupt:
        return _fail("interrupted; no video was written", INTERRUPTED)
    except torch.cuda.OutOfMemoryError:
        return _fail("the GPU's memory is full; ask for a smaller size or fewer frames, or use --device cpu")
    except MemoryError:
        return _fail("memory is full; ask for a smaller size or fewer frames")
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        return _fail(_in_options(str(error)))
    except RuntimeError as error:  # what PyTorch raises for the CPU's and Apple's memory
        if not any(sign in str(error) for sign in ("can't allocate memory", "out of memory")):
            raise
        return _fail("memory is full; ask for a smaller size or fewer frames")
    return 0


def _parse(argv: list[str]) -> tuple[Callable[[Namespace], object], Namespace]:
    """What to do, with its options: make a video, or one of COMMANDS if the first word names it."""
    if argv and argv[0] in COMMANDS:
        add_arguments, act = COMMANDS[argv[0]]
        parser = _Parser(f"{PROGRAM} {argv[0]}", allow_abbrev=False)
        add_arguments(parser)
        return act, parser.parse_args(argv[1:])
    return _make_video, _parser().parse_args(argv)


def _make_video(options: Namespace) -> Path:
    """From options to the file that was written."""
    output = check_writable(options.output or _free_name())
    _check_options(options)
    options.seed = _given(options.seed, secrets.randbelow(2**32))
    model = Path(options.model) if options.model else _demo(options)
    weights, variant = check_folder(model)
    request, fps = _request(options, variant)
    size = request.check(weights.config, variant)
    loras = [_lora(text) for text in options.lora]
    for path, _ in loras:
        read_lora(path, weight_shapes(weights.state_dict))
    strength = 1.0 if request.video is None else request.strength
    num_steps = len(NoiseSchedule(variant.schedule).steps(request.num_inference_steps, strength))

    settings = _settings(options, request, variant, size, fps)
    logger.info(_summary(settings))
    pipeline = load_pipeline(
        model,
        dtype=options.dtype,
        device=options.device,
        quantize=options.quantize,
        attention=options.attention,
        compile=options.compile,
        low_memory=options.low_memory,
    )
    for path, lora_strength in loras:
        load_lora(pipeline.transformer, path, lora_strength)
    settings["dtype"] = str(pipeline.dtype).removeprefix("torch.")
    arguments = {field.name: getattr(request, field.name) for field in fields(request)}
    with ProgressBars(num_steps, size.num_frames) as bars:
        chunks = pipeline.stream(**arguments, callback=bars.update)
        return write_video(output, bars.writing(chunks), fps, settings)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One sentence, without the usage in front."""
        sys.exit(_fail(f"{message}; {self.prog} --help lists what there is"))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        PROGRAM,
        description="Make a video with CogVideoX.",
        epilog=f"Other commands: {', '.join(f'{PROGRAM} {name} --help' for name in COMMANDS)}",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("prompt", metavar="PROMPT", help="what the video shows, in English; long descriptions work best")
    add(
        "-o", "--output", metavar="FILE", help="mp4 to write (default: a free name, cogvideox.mp4 or one with a number)"
    )
    add("--version", action="version", version=f"%(prog)s {__version__}")
    _add_model(parser.add_argument_group("model"))
    _add_video(parser.add_argument_group("video"))
    _add_sampling(parser.add_argument_group("sampling"))
    _add_speed(parser.add_argument_group("speed, for a loss"))
    _add_machine(parser.add_argument_group("machine"))
    return parser


class _Options(Protocol):
    """A group of the parser's options."""

    def add_argument(self, *names: str, **how: Any) -> Any: ...


def _add_model(options: _Options) -> None:
    add = options.add_argument
    add(
        "--model", metavar="PATH", help="whole CogVideoX folder in diffusers' layout (default: the built-in demo model)"
    )
    add(
        "--lora",
        metavar="FILE[:S]",
        action="append",
        default=[],
        help="LoRA to put on the model, at strength S (default: 1); can be given several times",
    )


def _add_video(options: _Options) -> None:
    add = options.add_argument
    add("--negative-prompt", metavar="TEXT", default="", help="what it should not show")
    add("--image", metavar="FILE", help="first frame, for an image-to-video model")
    add("--last-image", metavar="FILE", help="last frame, beside --image")
    add("--video", metavar="FILE", help="video to start from")
    add("--strength", type=float, metavar="S", help="how much of --video is made anew, above 0 to 1 (default: 0.8)")
    add("--fit", choices=("refuse", "crop", "stretch"), default="refuse", help="for pictures of another aspect ratio")
    add("--frames", type=int, metavar="N", help="number of frames, 8n+1 (default: the model's, or those of --video)")
    add("--height", type=int, metavar="H", help="pixels (default: the model's)")
    add("--width", type=int, metavar="W", help="pixels (default: the model's)")
    add("--fps", type=float, metavar="F", help="frames per second (default: the model's, or those of --video)")


def _add_sampling(options: _Options) -> None:
    add = options.add_argument
    add("--steps", type=int, metavar="N", help="sampling steps (default: 50; 25 for the demo model)")
    add(
        "--guidance",
        type=float,
        metavar="G",
        help="how closely to follow the prompt (default: 6; 3 for the demo model)",
    )
    add("--dynamic-cfg", action=BooleanOptionalAction, help="vary the guidance over the steps (default: the model's)")
    add("--sampler", choices=tuple(SAMPLERS), help="default: the model's")
    add("--seed", type=int, metavar="S", help="the same seed gives the same video (default: a random one)")


def _add_speed(options: _Options) -> None:
    add = options.add_argument
    add(
        "--cache-budget",
        type=float,
        metavar="E",
        default=0.0,
        help="predict steps while their estimated error, a mean over the run, stays below E (default: 0, compute all; "
        "0.03 is usual)",
    )
    add(
        "--teacache",
        type=float,
        metavar="T",
        default=0.0,
        help="TeaCache's rule with threshold T in place of a budget (default: 0, off; 0.1 is usual)",
    )
    add(
        "--guidance-until",
        type=float,
        metavar="P",
        default=1.0,
        help="compute the negative prompt in this part of the steps only, above 0 to 1 (default: 1)",
    )


def _add_machine(options: _Options) -> None:
    add = options.add_argument
    add("--device", metavar="D", help="cpu, cuda, cuda:1, mps (default: the best there is)")
    add("--dtype", metavar="D", help="bfloat16, float16 or float32 (default: that of the weights)")
    add(
        "--quantize",
        choices=tuple(METHODS),
        default="none",
        help="the large matrices of transformer and text encoder in 8 bits: int8, or bitsandbytes' llm.int8",
    )
    add(
        "--vae-tiling",
        choices=TILING_CHOICES,
        default=Request.vae_tiling,
        help="exact; blended: tiles as in diffusers, for less memory; auto: exact while that fits (default: auto)",
    )
    add("--low-memory", action="store_true", help="keep the model in CPU memory, stream it to the GPU while it works")
    add(
        "--attention",
        choices=(AUTO, *BACKENDS),
        default=AUTO,
        help="flash and sage need packages of these names, and sage is approximate (default: auto, an exact one)",
    )
    add("--compile", action="store_true", help="torch.compile the model: a while at first, then faster")


def _check_options(options: Namespace) -> None:
    """What can be known without any file. Raises: ValueError."""
    if options.fps is not None:
        check_fps(options.fps)
    if options.dtype is not None:
        named_dtype(options.dtype)
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
    """What the mp4 tells about how it was made; files by their names, not by where they lay."""
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


def _in_options(sentence: str) -> str:
    """A sentence of the core in the words of the command line: "num_frames=50" as "--frames 50"."""
    for argument, option in _OPTIONS.items():
        sentence = re.sub(rf"\b{argument}=", f"{option} ", sentence)
    for phrase, option in _PHRASES.items():
        sentence = sentence.replace(phrase, option)
    return sentence


def _given(value: Any, default: Any) -> Any:
    return default if value is None else value


def _free_name() -> Path:
    """cogvideox.mp4 in the current folder, or the first cogvideox-2.mp4, ... that is not there."""
    names = (Path(f"{PROGRAM}-{number}.mp4" if number > 1 else f"{PROGRAM}.mp4") for number in count(1))
    return next(name for name in names if not name.exists())


def _fail(message: str, code: int = BAD_INPUT) -> int:
    print(f"{PROGRAM}: {' '.join(message.split())}", file=sys.stderr)
    return code


class _Lines(logging.Handler):
    """Log records as lines above the progress bars."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(f"{PROGRAM}: {record.getMessage()}", file=sys.stderr)


@contextmanager
def _log_on_stderr() -> Iterator[None]:
    handler, level = _Lines(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@contextmanager
def _tidy_when_terminated() -> Iterator[None]:
    """Leave through the same clean-up when somebody ends the process."""
    previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
