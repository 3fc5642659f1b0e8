"""`cogvideox inspect` and `cogvideox convert`: what a weight file is, and the same weights in another form."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from contextlib import ExitStack

from tqdm import tqdm

from .convert import FORMS, convert
from .inspection import inspect, report
from .weights import named_dtype


def _add_inspect(parser: ArgumentParser) -> None:
    parser.description = "Tell what weights are, in which form, and whether they are whole. Reads headers only."
    parser.add_argument("paths", metavar="PATH", nargs="+", help="weight file, component's folder or whole folder")


def _inspect(options: Namespace) -> str:
    return "\n".join(report(found) for path in options.paths for found in inspect(path))


def _add_convert(parser: ArgumentParser) -> None:
    forms = "; ".join(f"{name}: {form.told}" for name, form in FORMS.items())
    parser.description = f"Write weights in another form, tensor by tensor. {forms}."
    parser.add_argument("source", metavar="IN", help="weight file or component's folder, in any form that is read")
    parser.add_argument("target", metavar="OUT", help="file or folder to make")
    parser.add_argument("--to", required=True, metavar="FORM", help=", ".join(FORMS))
    parser.add_argument("--dtype", metavar="D", help="of the numbers that are not made small (default: as they are)")


def _convert(options: Namespace) -> str:
    dtype = None if options.dtype is None else named_dtype(options.dtype)
    with ExitStack() as bars:
        bar: tqdm | None = None  # none before there is something to do, so that a refusal stands alone

        def progress(done: int, total: int) -> None:
            nonlocal bar
            if bar is None:
                bar = bars.enter_context(
                    tqdm(total=total, desc="converting", unit="B", unit_scale=True, file=sys.stderr, leave=False)
                )
            bar.update(done - bar.n)

        return str(convert(options.source, options.target, options.to, dtype=dtype, progress=progress))


COMMANDS: dict[str, tuple[Callable[[ArgumentParser], None], Callable[[Namespace], str]]] = {
    "inspect": (_add_inspect, _inspect),
    "convert": (_add_convert, _convert),
}
"""By the first word of the command line: what it takes, and what it does; it returns what to print."""
