"""The command `cogvideox embed`, and the files that it writes and `--embeds` reads: prompts that are encoded already.

Such a file holds `prompt_embeds` and `negative_prompt_embeds`, and in its header the two prompts.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from ..demo import DEMO_MODEL
from ..kernels.devices import named_device
from ..pipeline.dtype_choice import text_encoder_dtype
from ..weights.dtypes import named_dtype
from ..weights.entries import TensorEntry
from ..weights.errors import CheckpointError, listed
from ..weights.files import open_weights
from ..weights.t5 import build_text_encoder, read_text_encoder
from ..weights.writing import write_safetensors

_PROMPT, _NEGATIVE = "prompt", "negative_prompt"


class Embeddings(NamedTuple):
    """Encoded prompts [1, L, D], None for a negative one that is not there, and the texts by their names."""

    prompt: Tensor
    negative: Tensor | None
    texts: dict[str, str]


def read_embeddings(path: str | Path) -> Embeddings:
    """The encoded prompts in a file. Raises: CheckpointError if it holds none."""
    weights = open_weights(path)
    tensors = {name: weights[f"{name}_embeds"] for name in (_PROMPT, _NEGATIVE) if f"{name}_embeds" in weights}
    wrong = [list(tensor.shape) for tensor in tensors.values() if tensor.ndim != 3 or len(tensor) != 1]
    if _PROMPT not in tensors or wrong:
        found = f"an encoded prompt of shape {wrong[0]}" if wrong else listed(weights, 3) or "nothing"
        raise CheckpointError(
            f"{path} holds {found}; give a file with prompt_embeds, one prompt of shape [1, L, D], and "
            "negative_prompt_embeds: cogvideox embed makes one"
        )
    texts = {name: text for name, text in weights.metadata.items() if name in (_PROMPT, _NEGATIVE)}
    return Embeddings(tensors[_PROMPT], tensors.get(_NEGATIVE), texts)


def _add_arguments(parser: ArgumentParser) -> None:
    parser.description = (
        "Encode a prompt once, on this machine or another, for cogvideox --embeds FILE, which then needs no T5. In "
        "Python: the tensors are what load_text_encoder(...)([PROMPT]) gives."
    )
    add = parser.add_argument
    add(_PROMPT, metavar="PROMPT", help="what the video shows")
    add("-o", "--output", metavar="FILE", required=True, help=".safetensors file to write")
    add("--negative-prompt", metavar="TEXT", default="", help="what it should not show")
    add("--t5", metavar="PATH", default=DEMO_MODEL, help="T5 text encoder or whole model (default: the demo model's)")
    add("--device", metavar="D", default="cpu", help="cpu, cuda, cuda:1, mps, xpu, ... (default: cpu)")
    add("--dtype", metavar="D", help="bfloat16, float16 or float32 (default: that of the weights)")


def _embed(options: Namespace) -> Path:
    target = Path(options.output)
    if target.suffix != ".safetensors":
        raise ValueError(f"{target} for encoded prompts; name a file that ends in .safetensors")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {target.parent} for {target.name}; make it first")
    device = named_device(options.device)
    dtype = None if options.dtype is None else named_dtype(options.dtype)
    texts = {_PROMPT: options.prompt, _NEGATIVE: options.negative_prompt}
    weights = read_text_encoder(options.t5)
    if device.type != "cpu":
        dtype = text_encoder_dtype(weights, dtype, device)
    encoder = build_text_encoder(weights, dtype=dtype, device=device)
    embeds = {f"{name}_embeds": encoder([text]).cpu() for name, text in texts.items()}
    write_safetensors(target, {name: _entry(tensor) for name, tensor in embeds.items()}, texts)
    return target


def _entry(tensor: Tensor) -> TensorEntry:
    return TensorEntry(tuple(tensor.shape), tensor.dtype, lambda: tensor)


COMMANDS: dict[str, tuple[Callable[[ArgumentParser], None], Callable[[Namespace], Path]]] = {
    "embed": (_add_arguments, _embed)
}
