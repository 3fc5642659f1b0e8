"""The command `cogvideox`: finds the subcommand, and turns what goes wrong into one sentence and an exit code.

Modules of subcommands are imported when they are asked for, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import logging
import re
import signal
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from typing import NoReturn

from .. import __version__

logger = logging.getLogger("cogvideox")

PROGRAM = "cogvideox"
BAD_INPUT = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells count
TERMINATED = 143  # 128 + SIGTERM
SUBCOMMANDS = {
    "inspect": "file_commands",
    "convert": "file_commands",
    "fit-preview": "file_commands",
    "check-weights": "check_weights",
    "models": "known_models",
    "embed": "embeddings",
}
"""The module of each; its COMMANDS holds, by the name, what the subcommand takes and what it does."""

# Names of arguments in the core's sentences, and the options they are typed as.
_OPTIONS = {
    "num_frames": "--frames",
    "num_inference_steps": "--steps",
    "guidance_scale": "--guidance",
    "strength": "--strength",
    "cache_budget": "--cache-budget",
    "teacache": "--teacache",
    "guidance_until": "--guidance-until",
    "background": "--background",
    "height": "--height",
    "width": "--width",
    "attention": "--attention",
    "position_table": "--position-table",
    "vae": "--vae",
    "text_encoder": "--t5",
    "device": "--device",
    "text_encoder_device": "--t5-device",
    "dtype": "--dtype",
    "codec": "--codec",
}
_PHRASES = {
    "give image": "give --image",
    "set image_fit to 'crop' or 'stretch'": "use --fit crop or --fit stretch",
    "(allow_any_size)": "(--any-size)",
    "(position_table)": "(--position-table interpolated or omitted)",
    "with prompt_embeds needs negative_prompt_embeds": "with --embeds needs negative_prompt_embeds in its file",
    "set zero_negative_prompt or a guidance_scale of 1": "ask for --guidance 1",
}
_SMALLER = "ask for a smaller size or fewer frames"


def main(argv: list[str] | None = None) -> int:
    """Run the command, and print what it returns: a text, or a text and an exit code.

    What libraries print on their own goes to stderr, so that stdout holds the answer alone.
    Returns: the exit code; 2 for input that does not fit, with one sentence on stderr; 130 after Ctrl-C.
    """
    act, options = _parse(sys.argv[1:] if argv is None else argv)
    try:
        with _log_on_stderr(), _clean_up_when_terminated(), redirect_stdout(sys.stderr):
            result = act(options)
    except KeyboardInterrupt:
        return _fail("interrupted; no video was written", INTERRUPTED)
    except Exception as error:
        sentence = None if options.traceback else _sentence(error)
        if sentence is None:
            raise
        return _fail(sentence)
    text, code = result if isinstance(result, tuple) else (result, 0)
    print(text)
    return code


def _parse(argv: list[str]) -> tuple[Callable[[Namespace], object], Namespace]:
    """What to do, with its options: the subcommand that the first word names, else make a video."""
    name = argv[0] if argv and argv[0] in SUBCOMMANDS else ""
    module = import_module(f".{SUBCOMMANDS[name]}" if name else ".generate", __package__)
    add_arguments, act = module.COMMANDS[name]
    parser = _Parser(f"{PROGRAM} {name}".strip(), allow_abbrev=False)
    if not name:
        parser.epilog = f"Other commands: {', '.join(f'{PROGRAM} {other} --help' for other in SUBCOMMANDS)}"
        parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument("--traceback", action="store_true", help="on an error, show where in the code it arose")
    add_arguments(parser)
    return act, parser.parse_args(argv[1:] if name else argv)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One sentence, without the usage in front."""
        sys.exit(_fail(f"{message}; {self.prog} --help lists what there is"))


def _sentence(error: Exception) -> str | None:
    """What to tell the user of an error; None for one that is a bug."""
    import torch

    from ..weights.file_bytes import is_full_memory

    if isinstance(error, torch.cuda.OutOfMemoryError):
        return f"the GPU's memory is full; {_SMALLER}, or use --device cpu"
    if is_full_memory(error):
        return f"memory is full; {_SMALLER}"
    if isinstance(error, (ValueError, OSError, ImportError, FloatingPointError)):
        return _in_options(str(error))
    return None


def _in_options(sentence: str) -> str:
    """A sentence of the core with the options of the command line: "num_frames=50" as "--frames 50"."""
    for argument, option in _OPTIONS.items():
        sentence = re.sub(rf"\b{argument}=", f"{option} ", sentence)
    for phrase, option in _PHRASES.items():
        sentence = sentence.replace(phrase, option)
    return sentence


def _fail(message: str, code: int = BAD_INPUT) -> int:
    print(f"{PROGRAM}: {' '.join(message.split())}", file=sys.stderr)
    return code


class _Lines(logging.Handler):
    """Log records as lines above the progress bars."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

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
def _clean_up_when_terminated() -> Iterator[None]:
    """Clean up as after an error when the process is asked to end."""
    previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
