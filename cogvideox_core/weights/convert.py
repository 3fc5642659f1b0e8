"""From one form of weights to another, tensor by tensor.

What a form cannot hold is left as it is: only the matrices of attention and feed-forward are stored in few bits, since
the rest is small and sensitive.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..weights.t5 import t5_config
from . import recognize as kinds
from .codecs import CODECS
from .detect import transformer_config, vae_config
from .entries import Entry, Weights
from .errors import CheckpointError
from .files import open_weights
from .load import declared_config, open_component
from .packed_weight import PackedWeight, is_large, quantize
from .recognize import Component, recognize
from .save_diffusers import describe, write_json
from .writing import GGUF_DTYPES, Progress, entry_bytes, write_gguf, write_safetensors

_SHARD_BYTES = 5_000_000_000


@dataclass(frozen=True)
class Form:
    """What weights can be converted to.

    Attributes:
        codec: of the large matrices; None for plain numbers.
        suffix: of the file; None for a folder.
        note: ComfyUI's name of the format.
    """

    told: str
    codec: str | None = None
    suffix: tuple[str, ...] = (".safetensors",)
    note: str | None = None


FORMS: dict[str, Form] = {
    "diffusers": Form("a folder with config.json, in parts of 5 GB", suffix=()),
    "single": Form("one .safetensors file with diffusers' names"),
    "fp8": Form("8-bit floats with a scale, as ComfyUI reads them", "fp8", note="float8_e4m3fn"),
    "int8": Form("8-bit integers with a scale for each row, as ComfyUI reads them", "int8", note="int8_tensorwise"),
    "q8_0": Form("blocks of GGML, 8.5 bits a number", "Q8_0", (".gguf", ".safetensors")),
    "q4_0": Form("blocks of GGML, 4.5 bits a number", "Q4_0", (".gguf", ".safetensors")),
    "gguf": Form("one .gguf file in 16 or 32 bits", suffix=(".gguf",)),
}


def convert(
    source: str | Path,
    target: str | Path,
    to: str,
    *,
    dtype: torch.dtype | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Write the weights at `source` in another form.

    Args:
        source: a weight file or a component's folder, in any form that is read.
        target: the file or folder to make.
        to: a key of FORMS.
        dtype: of the numbers that are not made small; None keeps theirs.
        progress: told, after each tensor, how many bytes are written and how many there will be.
    Returns: target.
    Raises: CheckpointError if the weights cannot be read; ValueError if the target does not fit the form;
        FileExistsError if it is there; OSError if it cannot be written. Nothing half-written is left.
    """
    source, target, form = Path(source), Path(target), _form(to)
    _check_target(target, form, to)
    component = component_of(source)
    weights = open_component(source, component)
    config = config_of(weights, source, component)
    if component == "vae" and (form.codec or target.suffix == ".gguf"):
        raise ValueError(f"{source} is a VAE, whose convolutions are not stored in {to}; take diffusers or single")
    if target.suffix == ".gguf" and dtype not in (None, *GGUF_DTYPES):
        raise ValueError(f"dtype {dtype} for {target.name}; .gguf files hold float32, float16 and bfloat16")
    entries = {
        part: entry
        for key, entry in weights.entries.items()
        for part, entry in _converted(key, entry, form, target.suffix, dtype).items()
    }
    done, total = 0, sum(map(entry_bytes, entries.values()))

    def told(number: int) -> None:
        nonlocal done
        done += number
        progress(done, total)

    if not form.suffix:
        _write_folder(target, entries, component, config, told)
    elif target.suffix == ".gguf":
        write_gguf(target, entries, f"cogvideox_{component}", config, told)
    else:
        write_safetensors(target, entries, {"config": json.dumps(config)}, told)
    return target


def component_of(path: Path) -> Component:
    """Which component a file or folder holds. Raises: CheckpointError if it holds none, or something else."""
    kind = recognize(open_weights(path))
    found = kinds.component_of(kind)
    if found is None:
        told = f"is {kind.what}" if kind else "holds nothing that is known"
        raise CheckpointError(f"{path} {told}; give a transformer, a VAE or a T5 text encoder")
    return found


def _form(to: str) -> Form:
    if to not in FORMS:
        raise ValueError(f"{to!r} is no form of weights; take one of {', '.join(FORMS)}")
    return FORMS[to]


def _check_target(target: Path, form: Form, to: str) -> None:
    if form.suffix and target.suffix not in form.suffix:
        raise ValueError(f"{target} for {to}, which is written to a file; name one that ends in {form.suffix[0]}")
    if target.exists():
        raise FileExistsError(f"{target} is there already; name another, or remove it first")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {target.parent} for {target.name}; make it first")


# --- Tensors ------------------------------------------------------------------------------------------------------


def _converted(key: str, entry: Entry, form: Form, suffix: str, dtype: torch.dtype | None) -> dict[str, Entry]:
    """The entries a file of that form has for a weight."""
    module = key.removesuffix(".weight")
    if form.codec is None or not is_large(key):
        plain = dtype or (torch.float32 if suffix == ".gguf" and entry.dtype not in GGUF_DTYPES else entry.dtype)
        return {key: Entry(entry.shape, plain, partial(_plain, entry, plain))}
    read = lru_cache(maxsize=1)(partial(_small, entry, form.codec))  # the parts of a weight are asked for in turn
    if form.note is None and suffix == ".gguf":
        return {key: Entry(entry.shape, torch.float16, read, form.codec)}
    if form.note is None:
        stored = CODECS[form.codec].stored_shape(entry.shape)
        return {f"{module}.{form.codec}_qweight": _part(read, "data", stored, torch.uint8)}
    note = torch.tensor(list(json.dumps({"format": form.note}).encode()), dtype=torch.uint8)
    scale_shape = (entry.shape[0], 1) if form.codec == "int8" else ()
    data = torch.int8 if form.codec == "int8" else torch.float8_e4m3fn
    return {
        key: _part(read, "data", entry.shape, data),
        f"{module}.weight_scale": _part(read, "scale", scale_shape, torch.float32),
        f"{module}.comfy_quant": Entry(tuple(note.shape), torch.uint8, lambda: note),
    }


def _plain(entry: Entry, dtype: torch.dtype) -> Tensor:
    tensor = entry.read()
    return tensor.dequantize(dtype) if isinstance(tensor, PackedWeight) else tensor.to(dtype)


def _small(entry: Entry, codec: str) -> PackedWeight:
    """The weight in a codec; as it is if it is in that already."""
    tensor = entry.read()
    if isinstance(tensor, PackedWeight):
        if tensor.codec == codec and _stores_alike(tensor, entry):
            return tensor
        tensor = tensor.dequantize(torch.float32)
    return quantize(tensor, codec)


def _stores_alike(tensor: PackedWeight, entry: Entry) -> bool:
    """Whether a scaled weight has the scales a file of ours has: one for each row of int8, one for all of fp8."""
    scale = tensor.stored.get("scale")
    if tensor.codec == "int8":
        return scale is not None and scale.numel() == entry.shape[0]
    if tensor.codec == "fp8":
        return scale is not None and scale.numel() == 1 and tensor.stored["data"].dtype == torch.float8_e4m3fn
    return True


def _part(read: Callable[[], PackedWeight], name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Entry:
    return Entry(shape, dtype, lambda: read().stored[name].reshape(shape).to(dtype))


# --- Configurations and folders -----------------------------------------------------------------------------------


def config_of(weights: Weights, source: Path, component: Component) -> dict[str, Any]:
    """diffusers' (transformers') config.json for weights: what they declare, and what their shapes show.

    Raises: CheckpointError if they are of no known build.
    """
    declared = declared_config(weights, source)
    if component == "transformer":
        return describe(
            "CogVideoXTransformer3DModel", asdict(transformer_config(weights.shapes, declared, source=source))
        )
    if component == "vae":
        config = asdict(vae_config(weights.shapes, declared, source=source))
        levels = len(config["block_out_channels"])
        blocks = {f"{way}_block_types": [f"CogVideoX{way.title()}Block3D"] * levels for way in ("down", "up")}
        return describe("AutoencoderKLCogVideoX", config | blocks)
    told = t5_config(weights.shapes, declared, source)
    return {**told, "architectures": ["T5EncoderModel"], "model_type": "t5", "is_encoder_decoder": False}


def _write_folder(
    target: Path, entries: Mapping[str, Entry], component: Component, config: Mapping[str, Any], progress: Progress
) -> None:
    """One file, or parts of 5 GB with an index; the folder gets its name when it is complete."""
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    part.mkdir()
    try:
        stem = "model" if component == "text_encoder" else "diffusion_pytorch_model"
        shards = _shards(entries)
        if len(shards) == 1:
            write_safetensors(part / f"{stem}.safetensors", entries, progress=progress)
        else:
            names = [f"{stem}-{index + 1:05}-of-{len(shards):05}.safetensors" for index in range(len(shards))]
            for name, shard in zip(names, shards, strict=True):
                write_safetensors(part / name, shard, progress=progress)
            placed = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
            total = sum(map(entry_bytes, entries.values()))
            write_json(
                part / f"{stem}.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": placed}
            )
        write_json(part / "config.json", config)
        part.rename(target)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _shards(entries: Mapping[str, Entry]) -> list[dict[str, Entry]]:
    shards: list[dict[str, Entry]] = [{}]
    size = 0
    for key, entry in entries.items():
        if shards[-1] and size + entry_bytes(entry) > _SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][key] = entry
        size += entry_bytes(entry)
    return shards
