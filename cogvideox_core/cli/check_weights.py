"""The command `cogvideox check-weights`: try weights as they were published, and print one table row about them.

It inspects the files, takes two sampling steps at a small size and decodes the result, and does the same with diffusers
where that is installed. The two programs run one after the other, so memory holds one model at a time.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import platform
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor

from .. import __version__
from ..kernels.devices import default_device, named_device
from ..models.config import TransformerConfig
from ..models.shapes import default_size
from ..models.variants import VARIANTS, Variant
from ..pipeline.dtype_choice import check_dtype, own_dtype
from ..pipeline.folder import ModelFolder
from ..pipeline.memory import free_memory
from ..weights.diffusers_folder import component_path, pipeline_folder
from ..weights.dtypes import named_dtype
from ..weights.errors import CheckpointError
from ..weights.folder_files import ENDINGS
from ..weights.inspect import Inspection, inspect, report
from ..weights.load import read_transformer
from ..weights.places.names import locate
from ..weights.recognize import COMPONENTS
from ..weights.t5 import load_text_encoder
from .short_runs import GUIDANCE, SMALL, STEPS, Job, Sampled, sample, sample_with_diffusers, try_once

logger = logging.getLogger("cogvideox")

BOUNDS = {torch.float32: 1e-3, torch.bfloat16: 0.05, torch.float16: 0.01}
"""Largest difference to diffusers, relative to diffusers' largest value, that rounding explains."""

_PROMPTS = ["a ship in a storm, dramatic light, waves break over the deck", "blurry, out of focus"]
_SAMPLED = ("text", "image")  # what a model may be conditioned on for this command to sample it
_TRANSFORMER, _VAE, _TEXT_ENCODER = (COMPONENTS[name].what for name in ("transformer", "vae", "text_encoder"))
_FORMS_OF_DIFFUSERS = {".safetensors", ".bin", "sharded", "diffusers"}
_DIGITS = 8  # of each file's SHA-256; enough to compare with the published ones
_SPARE = 1.5  # times the weights, for what a step takes besides


@dataclass
class Check:
    """What was found out about weights: the row of the table.

    Attributes:
        fault: what is wrong with them, in a few words; None if nothing is.
        how: what was done with them, and whether diffusers did the same.
        latents, frames: largest difference to diffusers, relative to its largest value; None if not compared.
        seconds: of our run, and of diffusers'.
        peak: bytes of memory at most, in our run.
    """

    path: Path
    inspections: list[Inspection]
    fault: str | None = None
    how: str = "not sampled"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    latents: float | None = None
    frames: float | None = None
    seconds: list[float] = field(default_factory=list)
    peak: int | None = None

    def table(self) -> str:
        """A Markdown table of one row."""
        cells = self._cells()
        return "\n".join(map(_markdown, (cells.keys(), ["---"] * len(cells), cells.values())))

    def _cells(self) -> dict[str, str]:
        first = self.inspections[0]
        missing = sum(len(found.missing) for found in self.inspections)
        unexpected = sum(len(found.unexpected) for found in self.inspections)
        close = "whole" if self.latents is None else "whole and close"
        return {
            "model": first.variant or first.what,
            "form": ", ".join((*first.form, *first.numbers)),
            "size, SHA-256": f"{_gigabytes(first.nbytes)}; {', '.join(_digests(first.path))}",
            "keys missing / unexpected": f"{missing} / {unexpected}",
            "result": self.fault or close,
            "how": self.how,
            "latents apart": self._apart(self.latents),
            "frames apart": self._apart(self.frames),
            "seconds, ours / diffusers": " / ".join(f"{seconds:.1f}" for seconds in self.seconds) or "-",
            "peak memory": "-" if self.peak is None else _gigabytes(self.peak),
            "device": _device_name(self.device),
            "versions": _versions(),
            "system": platform.platform(terse=True),
        }

    def _apart(self, difference: float | None) -> str:
        return "-" if difference is None else f"{difference:.1e} of {BOUNDS[self.dtype]:g}"


def _add_arguments(parser: ArgumentParser) -> None:
    parser.description = (
        "Try weights: inspect them, take two sampling steps at a small size, decode the result, do the same with "
        "diffusers where it is installed, and print one table row to paste into an issue. Exit code 0 if the weights "
        "are whole and, where diffusers ran, close to it; 1 if not; 2 if they do not open. A large model takes minutes."
    )
    parser.add_argument("path", metavar="FOLDER", help="whole CogVideoX folder in diffusers' layout, or a weight file")
    parser.add_argument(
        "--device", metavar="D", help="cpu, cuda, cuda:1, mps, xpu, ... (default: the best one the model fits on)"
    )
    parser.add_argument("--dtype", metavar="D", help="default: float32 where there is memory for it, else 16 bits")
    parser.add_argument(
        "--trained-size", action="store_true", help="the size and length the model was trained at; work for a GPU"
    )


def _row(options: Namespace) -> tuple[str, int]:
    """The row, and the exit code."""
    dtype = None if options.dtype is None else named_dtype(options.dtype)
    check = check_weights(options.path, device=options.device, dtype=dtype, trained_size=options.trained_size)
    return check.table(), 1 if check.fault else 0


COMMANDS: dict[str, tuple[Callable[[ArgumentParser], None], Callable[[Namespace], tuple[str, int]]]] = {
    "check-weights": (_add_arguments, _row)
}


def check_weights(
    path: str | Path, *, device: str | None = None, dtype: torch.dtype | None = None, trained_size: bool = False
) -> Check:
    """Inspect weights, sample and decode with them, and compare with diffusers where that can be done.

    Raises: CheckpointError for what does not open; ValueError for a device that is not there.
    """
    path = locate(path)
    where = None if device is None else named_device(device)
    check = Check(path, _opened(path))
    torn = [found for found in check.inspections if found.missing or found.unexpected]
    if torn:
        logger.warning("%s", "\n".join(map(report, torn)))
        check.fault = "not whole"
        return check
    config, variant = _model(path, check.inspections[0])
    size = default_size(config, variant) if trained_size else SMALL
    check.device, check.dtype = _device_and_dtype(check.inspections, variant, where, dtype)
    job = Job(path, config, variant, size, check.device, check.dtype)
    try:
        _sample(check, job) if _is_whole_folder(path) else _try_component(check, job)
    except FloatingPointError as error:
        check.fault = f"not finite: {error}"
    return check


def _is_whole_folder(path: Path) -> bool:
    return pipeline_folder(path) == path


def _model(path: Path, found: Inspection) -> tuple[TransformerConfig, Variant]:
    """What the transformer is; for a lone VAE or text encoder, which are alike in all models, any of them."""
    if _is_whole_folder(path):
        folder = ModelFolder.open(path, vae=component_path(path, "vae"), needs_text_encoder=False)
        return folder.transformer.config, folder.variant
    if found.what == _TRANSFORMER:
        weights = read_transformer(path)
        return weights.config, weights.variant
    variant = VARIANTS["CogVideoX-5B"]
    return variant.transformer, variant


def _opened(path: Path) -> list[Inspection]:
    """What the files say of themselves. Raises: CheckpointError if one of them does not open."""
    if not path.exists():
        raise CheckpointError(f"{path} does not exist; give a CogVideoX folder or a weight file")
    inspections = inspect(path)
    for found in inspections:
        if found.fault:
            raise CheckpointError(found.fault)
        if found.what not in (_TRANSFORMER, _VAE, _TEXT_ENCODER):
            raise CheckpointError(f"{path} is {found.what}; give a CogVideoX folder, or its transformer or VAE")
    return inspections


def _device_and_dtype(
    inspections: list[Inspection], variant: Variant, device: torch.device | None, dtype: torch.dtype | None
) -> tuple[torch.device, torch.dtype]:
    """Float32 where it fits, since it tells mistakes from rounding; else what the model was released in."""
    parameters = sum(found.parameters for found in inspections if found.what != _TEXT_ENCODER)
    chosen, released = device or default_device(), named_dtype(variant.defaults.dtype)

    def fits(where: torch.device, width: int) -> bool:
        free = free_memory(where)
        return free is not None and _SPARE * width * parameters < free

    if device is None and chosen.type == "cuda" and not fits(chosen, 2):
        chosen = torch.device("cpu")
    if dtype is not None:
        check_dtype(dtype, released, chosen)
    elif fits(chosen, 4):
        dtype = torch.float32
    return chosen, dtype or own_dtype(released, released, chosen, parameters)


def _sample(check: Check, job: Job) -> None:
    """Run a whole folder with both programs and put what came of it into `check`."""
    if job.variant.conditioning not in _SAMPLED:
        check.how = f"not sampled: the model is conditioned on {job.variant.conditioning}"
        return
    how = f"{job.size}, {STEPS} steps, guidance {GUIDANCE:g}, {_name(job.dtype)}"
    how += ", corner of the position table" if job.cuts_table else ""
    how += "" if _text_encoder(check.inspections) else ", drawn embeddings for want of a text encoder"
    check.how = how
    embeds = _embeddings(check.inspections, job)
    logger.info("ours: %s on %s", how, job.device)
    ours = sample(job, embeds)
    check.seconds, check.peak = [ours.seconds], ours.peak
    if not ours.frames.isfinite().all():
        raise FloatingPointError("the decoded frames")
    if importlib.util.find_spec("diffusers") is None:
        check.how = f"{how}; diffusers not installed"
    elif not all(map(_opens_in_diffusers, check.inspections)):
        check.how = f"{how}; diffusers does not read this form"
    else:
        _compare(check, job, embeds, ours)


def _opens_in_diffusers(found: Inspection) -> bool:
    """Whether diffusers reads these files as what they are: it takes other names and quantized numbers for others."""
    if found.what == _TEXT_ENCODER:
        return True  # both programs get the embeddings of ours
    return set(found.form) <= _FORMS_OF_DIFFUSERS and set(found.numbers) <= {_name(dtype) for dtype in BOUNDS}


def _compare(check: Check, job: Job, embeds: Tensor, ours: Sampled) -> None:
    """Run diffusers on the same embeddings [2, L, D] and judge the difference."""
    logger.info("the same with diffusers")
    try:
        reference = sample_with_diffusers(job, embeds, ours.z)
    except Exception as error:  # another program's failure, of whatever kind, belongs in the row
        logger.warning("diffusers: %s", error)
        check.how += f"; diffusers failed: {type(error).__name__}"
        return
    check.seconds.append(reference.seconds)
    check.latents = _difference(ours.latents, reference.latents)
    check.frames = _difference(ours.frames, reference.frames)
    bound = BOUNDS[check.dtype]
    if not (check.latents <= bound and check.frames <= bound):  # NaN is not close either
        check.fault = "not close to diffusers"


def _try_component(check: Check, job: Job) -> None:
    """Use a single transformer or VAE once. diffusers opens whole folders only, so nothing is compared."""
    what = check.inspections[0].what
    if what == _TEXT_ENCODER:
        return
    check.how = f"one {'decode' if what == _VAE else 'forward'} at {job.size}, {_name(job.dtype)}; no whole folder"
    if not try_once(job, is_vae=what == _VAE).isfinite().all():
        raise FloatingPointError("what it computes")


def _embeddings(inspections: list[Inspection], job: Job) -> Tensor:
    """Embeddings [2, L, D] of a prompt and a negative prompt, from the folder's own text encoder, on the CPU.

    For a folder without one they are drawn.
    """
    text = _text_encoder(inspections)
    if text is None:
        shape = (2, job.config.max_text_seq_length, job.config.text_embed_dim)
        return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(job.dtype)
    logger.info("the text encoder reads two prompts")
    dtype = torch.bfloat16 if "float16" in text.numbers else None  # a CPU has hardly any arithmetic for float16
    encoder = load_text_encoder(job.path, dtype=dtype, max_length=job.config.max_text_seq_length)
    return encoder(_PROMPTS).to(job.dtype)


def _text_encoder(inspections: list[Inspection]) -> Inspection | None:
    return next((found for found in inspections if found.what == _TEXT_ENCODER), None)


def _difference(ours: Tensor, reference: Tensor) -> float:
    """max |ours - reference| / max |reference|; NaN if a value is not finite or the shapes differ."""
    if ours.shape != reference.shape:
        return float("nan")
    return float((ours.double() - reference.double()).abs().max() / reference.double().abs().max())


def _digests(path: Path) -> list[str]:
    """The first digits of the SHA-256 of each weight file at `path`."""
    files = sorted(file for file in path.iterdir() if file.suffix in ENDINGS) if path.is_dir() else [path]
    return [_digest(file) for file in files]


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 24):
            digest.update(piece)
    return digest.hexdigest()[:_DIGITS]


def _versions() -> str:
    diffusers = metadata.version("diffusers") if importlib.util.find_spec("diffusers") else "none"
    return f"torch {torch.__version__}, diffusers {diffusers}, cogvideox-nodes {__version__}"


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.machine()}, threads: {torch.get_num_threads()})"


def _markdown(cells: Iterable[str]) -> str:
    """One line of a table; what would break it is replaced."""
    return f"| {' | '.join(' '.join(cell.replace('|', '/').split()) for cell in cells)} |"


def _gigabytes(nbytes: int) -> str:
    return f"{nbytes / 1e9:.3g} GB"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
