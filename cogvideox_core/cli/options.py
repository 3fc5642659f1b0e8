"""The options of `cogvideox PROMPT`, in groups."""

from __future__ import annotations

from argparse import Action, ArgumentParser, ArgumentTypeError, BooleanOptionalAction
from typing import Any, Protocol, get_args

from ..models.config import PositionTable
from ..models.transformer.attention import AUTO, BACKENDS
from ..models.vae.tiling import TILING_CHOICES
from ..pipeline.request import Request
from ..sampling.samplers import SAMPLERS
from ..videos.background import WHITE
from ..videos.film_writers import DEFAULT_CRF, WEBM_CODECS
from ..videos.frame_times import EVERY_FRAME, MODELS_RATE, Rate
from ..videos.video_files import check_fps
from ..weights.places.listing import Kind
from ..weights.quantize import METHODS


def add_arguments(parser: ArgumentParser) -> None:
    """All of them."""
    parser.description = "Make a video with CogVideoX."
    add = parser.add_argument
    prompt = add("prompt", metavar="PROMPT", help="what the video shows, in English; long descriptions work best")
    parser.set_defaults(listed=None)
    add(
        "-o",
        "--output",
        metavar="FILE",
        help="file to write: .mp4, .webm, .gif or .webp; a folder, or a name such as frame_%%05d.png, for PNG files "
        "(default: a free name, cogvideox.mp4 or one with a number)",
    )
    add(
        "--crf",
        type=int,
        metavar="N",
        default=DEFAULT_CRF,
        help=f"quality of mp4 and webm, 0 (best) to 51 (smallest) (default: {DEFAULT_CRF})",
    )
    add("--codec", choices=WEBM_CODECS, help="of webm (default: vp9; av1 is smaller)")
    _add_model(parser.add_argument_group("model"), prompt)
    _add_video(parser.add_argument_group("video"))
    _add_sampling(parser.add_argument_group("sampling"))
    _add_speed(parser.add_argument_group("speed, for a loss"))
    _add_machine(parser.add_argument_group("machine"))


class _Options(Protocol):
    """A group of the parser's options."""

    def add_argument(self, *names: str, **how: Any) -> Any: ...


class _WithoutPrompt(Action):
    """An option with which PROMPT may be left out."""

    def __init__(self, *names: Any, prompt: Action, **how: Any) -> None:
        super().__init__(*names, **how)
        self._prompt = prompt

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        self._prompt.required = False
        setattr(namespace, self.dest, values)


class _PathOrList(_WithoutPrompt):
    """An option for a path or a name; without a value it asks for the list of the names there are."""

    def __init__(self, *names: Any, kind: Kind, **how: Any) -> None:
        super().__init__(*names, nargs="?", **how)
        self._kind = kind

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        if values is None:
            self._prompt.required = False
            namespace.listed = self._kind
        elif isinstance(self.default, list):  # can be given several times
            setattr(namespace, self.dest, [*getattr(namespace, self.dest), values])
        else:
            setattr(namespace, self.dest, values)


def _add_model(options: _Options, prompt: Action) -> None:
    def add(name: str, kind: Kind, **how: Any) -> None:
        options.add_argument(name, action=_PathOrList, kind=kind, prompt=prompt, **how)

    add(
        "--model",
        "transformer",
        metavar="PATH",
        help="whole CogVideoX folder in diffusers' layout, a transformer in a file, or a name (default: the built-in "
        "demo model). Without a value, this option and the next three list the names there are",
    )
    add("--vae", "vae", metavar="PATH", help="file or folder of the VAE (default: that in the model's folder)")
    add(
        "--t5",
        "text_encoder",
        metavar="PATH",
        help="file or folder of the T5 text encoder (default: that in the model's folder)",
    )
    add(
        "--lora",
        "lora",
        metavar="FILE[:S]",
        default=[],
        help="LoRA to put on the model, at strength S (default: 1); can be given several times",
    )
    options.add_argument(
        "--embeds",
        action=_WithoutPrompt,
        prompt=prompt,
        metavar="FILE",
        help="encoded prompt in place of PROMPT, for which no T5 is loaded; cogvideox embed makes one",
    )


def _add_video(options: _Options) -> None:
    add = options.add_argument
    add("--negative-prompt", metavar="TEXT", default="", help="what it should not show")
    add("--image", metavar="FILE", help="first frame, for an image-to-video model")
    add("--last-image", metavar="FILE", help="last frame, together with --image")
    add("--video", metavar="FILE", help="video to start from")
    add(
        "--video-fps",
        type=_rate,
        metavar="R",
        default=MODELS_RATE,
        help="which frames of --video: those at the model's rate, by time (model, the default), all (every), or those "
        "at R per second",
    )
    add("--strength", type=float, metavar="S", help="how much of --video is replaced, above 0 to 1 (default: 0.8)")
    add("--fit", choices=("refuse", "crop", "stretch"), default="refuse", help="for pictures of another aspect ratio")
    add("--background", metavar="C", default=WHITE, help="colour behind transparent pictures (default: white)")
    add("--frames", type=int, metavar="N", help="number of frames (default: the model's, or those of --video)")
    add("--height", type=int, metavar="H", help="pixels (default: the model's)")
    add("--width", type=int, metavar="W", help="pixels (default: the model's)")
    add("--any-size", action="store_true", help="allow more frames, and other sizes, than the model was trained for")
    add(
        "--position-table",
        choices=get_args(PositionTable),
        default=Request.position_table,
        help="5B-I2V at another size than 720x480: its learned table interpolated, or omitted as in fine-tunes without "
        "one",
    )
    add("--fps", type=float, metavar="F", help="frames per second (default: the model's, or --video-fps)")


def _rate(text: str) -> Rate:
    """Raises: ArgumentTypeError, which argparse makes a sentence of."""
    if text == MODELS_RATE or text == EVERY_FRAME:
        return text
    try:
        fps = float(text)
        check_fps(fps)
    except ValueError:
        raise ArgumentTypeError(
            f"{text!r} is no rate; use {MODELS_RATE}, {EVERY_FRAME} or frames per second, such as 8"
        ) from None
    return fps


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
    add("--device", metavar="D", help="cpu, cuda, cuda:1, mps, xpu, ... (default: the best there is)")
    add(
        "--t5-device",
        metavar="D",
        dest="text_encoder_device",
        help="where prompts are encoded: cpu, cuda:1, ... (default: as --device)",
    )
    add("--dtype", metavar="D", help="bfloat16, float16 or float32 (default: that of the weights, where D has it)")
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
        help="flash needs the package flash-attn; sage, approximate, needs sageattention (default: auto, an exact one)",
    )
    add("--compile", action="store_true", help="torch.compile the model: a while at first, then faster")
