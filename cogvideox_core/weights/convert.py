"""Converting weights from one form to another, tensor by tensor.

Only the matrices of attention and feed-forward are quantized; the other tensors take little memory, and rounding them
costs much.
"""

from __future__ import annotations

import json
import logging
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .codecs import CODECS
from .components import find_config, open_component
from .detect import transformer_config, vae_config
from .diffusers_folder import component_path
from .entries import OpenWeights, TensorEntry
from .errors import CheckpointError
from .files import open_weights
from .packed_weight import PackedWeight, is_quantizable, quantize
from .recognize import Component, components_in, recognize
from .save_diffusers import describe, write_json
from .t5 import t5_config
from .writing import GGUF_DTYPES, BytesWritten, entry_bytes, write_gguf, write_safetensors

logger = logging.getLogger("cogvideox")

_SHARD_BYTES = 5_000_000_000


@dataclass(frozen=True)
class Form:
    """A form that weights can be converted to.

    Attributes:
        description: of the form, for people.
        codec: of the large matrices; None if they are not quantized.
        suffix: the endings of file names that it can have; none for a folder.
        comfyui_format: ComfyUI's name of the number format, which its files note for each weight.
    """

    description: str
    codec: str | None = None
    suffix: tuple[str, ...] = (".safetensors",)
    comfyui_format: str | None = None


FORMS: dict[str, Form] = {
    "diffusers": Form("a folder with config.json, in parts of 5 GB", suffix=()),
    "single": Form("one .safetensors file with diffusers' names"),
    "fp8": Form("8-bit floats with a scale, as ComfyUI reads them", "fp8", comfyui_format="float8_e4m3fn"),
    "int8": Form(
        "8-bit integers with a scale for each row, as ComfyUI reads them", "int8", comfyui_format="int8_tensorwise"
    ),
    "q8_0": Form("blocks of GGML, 8.5 bits a number", "Q8_0", (".gguf", ".safetensors")),
    "q4_0": Form("blocks of GGML, 4.5 bits a number", "Q4_0", (".gguf", ".safetensors")),
    "gguf": Form("one .gguf file in 16 or 32 bits", suffix=(".gguf",)),
}


def convert(
    source: str | Path,
    target: str | Path,
    to: str,
    *,
    component: Component | None = None,
    dtype: torch.dtype | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Write the weights at `source` in another form.

    Args:
        source: a weight file or a component's folder, in any form that is read; with `component`, a whole folder too.
        target: the file or folder to write.
        to: a key of FORMS.
        component: which one to write of several; None for the transformer, or the only one.
        dtype: of the tensors that are not quantized; None keeps theirs.
        progress: called after each tensor with the bytes that are written, and all there will be.
    Returns: target.
    Raises: CheckpointError if the weights cannot be read; ValueError if the target does not fit the form;
        FileExistsError if it exists; OSError if it cannot be written. No incomplete file or folder is left.
    """
    source, target, form = Path(source), Path(target), _form(to)
    _check_target(target, form, to)
    if component is not None:
        source = component_path(source, component)
    component = component_at(source, component)
    source = component_path(source, component)
    weights = open_component(source, component)
    config = complete_config(weights, source, component)
    if component == "vae" and (form.codec or target.suffix == ".gguf"):
        raise ValueError(f"{source} is a VAE, whose convolutions are not stored in {to}; take diffusers or single")
    if target.suffix == ".gguf" and dtype not in (None, *GGUF_DTYPES):
        raise ValueError(f"dtype {dtype} for {target.name}; .gguf files hold float32, float16 and bfloat16")
    entries: dict[str, TensorEntry] = {}
    for key, entry in weights.entries.items():
        entries |= _converted(key, entry, form, target.suffix, dtype)
    on_written = _running_total(progress, sum(map(entry_bytes, entries.values())))
    if not form.suffix:
        _write_folder(target, entries, component, config, on_written)
    elif target.suffix == ".gguf":
        write_gguf(target, entries, f"cogvideox_{component}", config, on_written)
    else:
        write_safetensors(target, entries, {"config": json.dumps(config)}, on_written)
    return target


def component_at(path: Path, wanted: Component | None = None) -> Component:
    """The component that a file or folder holds: the wanted one, else the first, the transformer before others.

    Raises: CheckpointError if it holds none, or not that one, or is something else.
    """
    weights = open_weights(path)
    found = components_in(weights)
    if not found:
        kind = recognize(weights)
        what = f"is {kind.what}" if kind else "holds nothing that is known"
        raise CheckpointError(f"{path} {what}; give a transformer, a VAE or a T5 text encoder")
    if wanted not in (None, *found):
        raise CheckpointError(f"{path} holds no {wanted}; it holds {', '.join(found)}, take one of these")
    if wanted is None and len(found) > 1:
        logger.info("%s holds %s; %s is converted, --component chooses another", path, ", ".join(found), found[0])
    return wanted or found[0]


def _running_total(progress: Callable[[int, int], None], total: int) -> BytesWritten:
    """What adds up the bytes of single tensors for `progress`."""
    done = 0

    def on_written(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        progress(done, total)

    return on_written


def _form(to: str) -> Form:
    if to not in FORMS:
        raise ValueError(f"{to!r} is no form of weights; take one of {', '.join(FORMS)}")
    return FORMS[to]


def _check_target(target: Path, form: Form, to: str) -> None:
    if form.suffix and target.suffix not in form.suffix:
        raise ValueError(f"{target} for {to}, which is written to a file; name one that ends in {form.suffix[0]}")
    if target.exists():
        raise FileExistsError(f"{target} exists already; name another, or remove it first")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {target.parent} for {target.name}; make it first")


# --- Tensors ------------------------------------------------------------------------------------------------------


def _converted(
    key: str, entry: TensorEntry, form: Form, suffix: str, dtype: torch.dtype | None
) -> dict[str, TensorEntry]:
    """The entries that a file of that form has for a weight."""
    module = key.removesuffix(".weight")
    if form.codec is None or not is_quantizable(key):
        plain = dtype or (torch.float32 if suffix == ".gguf" and entry.dtype not in GGUF_DTYPES else entry.dtype)
        return {key: TensorEntry(entry.shape, plain, partial(_plain, entry, plain))}
    read = lru_cache(maxsize=1)(
        partial(_quantized, entry, form.codec)
    )  # one weight at a time, of which data and scale are read
    if form.comfyui_format is None and suffix == ".gguf":
        return {key: TensorEntry(entry.shape, torch.float16, read, form.codec)}
    if form.comfyui_format is None:
        stored = CODECS[form.codec].stored_shape(entry.shape)
        return {f"{module}.{form.codec}_qweight": _part(read, "data", stored, torch.uint8)}
    note = torch.tensor(list(json.dumps({"format": form.comfyui_format}).encode()), dtype=torch.uint8)
    scale_shape = (entry.shape[0], 1) if form.codec == "int8" else ()
    data = torch.int8 if form.codec == "int8" else torch.float8_e4m3fn
    return {
        key: _part(read, "data", entry.shape, data),
        f"{module}.weight_scale": _part(read, "scale", scale_shape, torch.float32),
        f"{module}.comfy_quant": TensorEntry(tuple(note.shape), torch.uint8, lambda: note),
    }


def _plain(entry: TensorEntry, dtype: torch.dtype) -> Tensor:
    tensor = entry.read()
    return tensor.dequantize(dtype) if isinstance(tensor, PackedWeight) else tensor.to(dtype)


def _quantized(entry: TensorEntry, codec: str) -> PackedWeight:
    """The weight in a codec; not rounded again if it is stored in that codec already."""
    tensor = entry.read()
    if isinstance(tensor, PackedWeight):
        if tensor.codec == codec and _has_our_scales(tensor, entry):
            return tensor
        tensor = tensor.dequantize(torch.float32)
    return quantize(tensor, codec)


def _has_our_scales(tensor: PackedWeight, entry: TensorEntry) -> bool:
    """Whether a weight has scales as our files store them: for int8 one for each row, for fp8 one."""
    scale = tensor.stored.get("scale")
    if tensor.codec == "int8":
        return scale is not None and scale.numel() == entry.shape[0]
    if tensor.codec == "fp8":
        return scale is not None and scale.numel() == 1 and tensor.stored["data"].dtype == torch.float8_e4m3fn
    return True


def _part(read: Callable[[], PackedWeight], name: str, shape: tuple[int, ...], dtype: torch.dtype) -> TensorEntry:
    return TensorEntry(shape, dtype, lambda: read().stored[name].reshape(shape).to(dtype))


# --- Configurations and folders -----------------------------------------------------------------------------------


def complete_config(weights: OpenWeights, source: Path, component: Component) -> dict[str, Any]:
    """The config.json that diffusers (or transformers) needs: what came with the weights, and what their shapes show.

    Raises: CheckpointError if the weights are built like no known model.
    """
    declared = find_config(weights, source)
    if component == "transformer":
        return describe(
            "CogVideoXTransformer3DModel", asdict(transformer_config(weights.shapes, declared, source=source))
        )
    if component == "vae":
        config = asdict(vae_config(weights.shapes, declared, source=source))
        levels = len(config["block_out_channels"])
        blocks = {f"{way}_block_types": [f"CogVideoX{way.title()}Block3D"] * levels for way in ("down", "up")}
        return describe("AutoencoderKLCogVideoX", config | blocks)
    config = t5_config(weights.shapes, declared, source)
    return {**config, "architectures": ["T5EncoderModel"], "model_type": "t5", "is_encoder_decoder": False}


def _write_folder(
    target: Path,
    entries: Mapping[str, TensorEntry],
    component: Component,
    config: Mapping[str, Any],
    on_written: BytesWritten,
) -> None:
    """One file, or parts of 5 GB with an index, in a temporary folder that is renamed when it is complete."""
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    part.mkdir()
    try:
        stem = "model" if component == "text_encoder" else "diffusion_pytorch_model"
        shards = _shards(entries)
        if len(shards) == 1:
            write_safetensors(part / f"{stem}.safetensors", entries, on_written=on_written)
        else:
            _write_shards(part, stem, shards, on_written)
        write_json(part / "config.json", config)
        part.rename(target)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _write_shards(folder: Path, stem: str, shards: list[dict[str, TensorEntry]], on_written: BytesWritten) -> None:
    """Several files, and the index that says which of them holds a tensor."""
    weight_map: dict[str, str] = {}
    total = 0
    for number, shard in enumerate(shards, start=1):
        name = f"{stem}-{number:05}-of-{len(shards):05}.safetensors"
        write_safetensors(folder / name, shard, on_written=on_written)
        weight_map |= dict.fromkeys(shard, name)
        total += sum(map(entry_bytes, shard.values()))
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    write_json(folder / f"{stem}.safetensors.index.json", index)


def _shards(entries: Mapping[str, TensorEntry]) -> list[dict[str, TensorEntry]]:
    """The entries in parts of at most 5 GB, in their order."""
    shards: list[dict[str, TensorEntry]] = [{}]
    size = 0
    for key, entry in entries.items():
        if shards[-1] and size + entry_bytes(entry) > _SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][key] = entry
        size += entry_bytes(entry)
    return shards
