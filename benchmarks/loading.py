"""Opening full-size weights: time and memory, ours next to diffusers and transformers, each in a process of its own.

Makes a 5B transformer in the forms people have and a T5-XXL in float32 (official shapes and shards; zeros in sparse
files, 30 GB that take next to no disk, but SAT's form and Q4_0 are written for real: 14 GB), opens each several times
in turn with the peer, then runs one small forward. A peer opens its own form, which is the only one it reads: shards.
Libraries are imported before a clock starts. Prints a table; exits with 1 if an aim is missed.

    python benchmarks/loading.py [--forms sharded single sat q4_0 t5] [--repeats 5] [--no-forward] [--folder FOLDER]

"Copied" is the anonymous memory a process gained: mapped pages of the file are the file cache's.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.measuring import anonymous_memory
from cogvideox_core import VARIANTS, CogVideoXTransformer3D, load_text_encoder, load_transformer
from cogvideox_core.models.text_encoder import t5_model
from cogvideox_core.training.tokenizer import train_tokenizer
from cogvideox_core.weights.convert import convert
from cogvideox_core.weights.files import open_weights
from cogvideox_core.weights.safetensors_file import DTYPE_NAMES

SHARD_BYTES = 5_000_000_000
GROWTH_LIMIT = 1.1  # anonymous memory, in sizes of the tensors
TIME_LIMIT = 0.5  # of the peer's
T5_XXL = dict(
    vocab_size=32_128,
    d_model=4096,
    d_kv=64,
    d_ff=10_240,
    num_heads=64,
    num_layers=24,
    feed_forward_proj="gated-gelu",
)
TEXT = ("a red ball bouncing in front of a meadow", "a lighthouse at dusk, waves break on the rocks")

Shapes = Mapping[str, torch.Size]


class Form(NamedTuple):
    """A full-size model in one form: how it is made from the sharded transformer, and what it is compared with.

    Attributes:
        peer: who opens the same weights as shards.
        time_limit: of the peer's time; infinite where it cannot be reached, which docs/loading.md explains.
    """

    make: Callable[[Path, Path], Path]
    component: str = "transformer"
    peer: str = "diffusers"
    time_limit: float = TIME_LIMIT


def main() -> int:
    options = _options()
    if options.measure:
        print(json.dumps(MEASURES[options.measure](Path(options.folder), not options.no_forward)))
        return 0
    lines, reached = table(options.forms, options.repeats, forward=not options.no_forward, folder=options.folder)
    print("\n".join(lines))
    return 0 if reached else 1


def table(
    forms: Sequence[str], repeats: int = 5, *, forward: bool = True, folder: str | None = None
) -> tuple[list[str], bool]:
    """The table's lines, and whether every aim is reached. `folder`: where the files are made for a while."""
    lines = ["| | file, GB | open, s | of the peer's | copied by opening | copied after a forward |", "|---" * 6 + "|"]
    reached = True
    with tempfile.TemporaryDirectory(prefix="cogvideox-loading-", dir=folder) as temporary:
        shards = Path(temporary) / "shards"
        write_transformer(shards)
        for name in forms:
            print(f"--- {name}", file=sys.stderr, flush=True)
            made = Path(temporary) / name
            made.mkdir()
            path = FORMS[name].make(shards, made)
            peer_path = shards if FORMS[name].component == "transformer" else path
            more, enough = _compared(name, path, peer_path, repeats, forward)
            lines += more
            reached &= enough
            shutil.rmtree(made)
    return lines, reached


def _compared(name: str, path: Path, peer_path: Path, repeats: int, forward: bool) -> tuple[list[str], bool]:
    """A line for ours, and one for the peer where it opens the same files; whether the aims are reached."""
    form, size = FORMS[name], _bytes(path)
    ours, peer = (f"ours {form.component}", path), (form.peer, peer_path)
    times: dict[str, list[float]] = {who: [] for who, _ in (ours, peer)}
    for _ in range(repeats):
        for who, where in (ours, peer):
            times[who].append(_in_a_new_process(who, where, forward=False)["seconds"])
    seconds = {who: statistics.median(runs) for who, runs in times.items()}
    lines, reached = [], True
    for who, where in (ours, peer) if peer_path == path else (ours,):
        run = _in_a_new_process(who, where, forward=forward)
        opened, forwarded = run["opened"] / size, run["forwarded"] / size
        ratio = seconds[who] / seconds[form.peer]
        label = "ours" if who != form.peer else who
        cells = [
            f"{size / 1e9:.2f}",
            f"{seconds[who]:.2f}",
            "" if label == who else f"{ratio:.2f}x",
            f"{opened:.2f}x",
        ]
        cells.append(f"{forwarded:.2f}x" if forward else "")
        lines.append(f"| {name}, {label} | {' | '.join(cells)} |")
        if label == "ours":
            reached = max(opened, forwarded) <= GROWTH_LIMIT and ratio <= form.time_limit
    return lines, reached


# --- Making the files ------------------------------------------------------------------------------------------------


def write_transformer(folder: Path) -> None:
    """A 5B transformer in bf16: zeros in official shards."""
    config = VARIANTS["CogVideoX-5B"].transformer
    shapes = {key: t.shape for key, t in CogVideoXTransformer3D(config, device="meta").state_dict().items()}
    _write_shards(folder, "diffusion_pytorch_model", shapes, torch.bfloat16)
    declared = {"_class_name": "CogVideoXTransformer3DModel", **asdict(config)}
    (folder / "config.json").write_text(json.dumps(declared, indent=2))


def _t5(_: Path, folder: Path) -> Path:
    """T5-XXL in float32, 19 GB, as 5B's folders have it, with a small tokenizer next to it."""
    model = t5_model(T5_XXL)
    shapes = {key: t.shape for key, t in model.state_dict().items() if key != "encoder.embed_tokens.weight"}
    path = folder / "text_encoder"
    _write_shards(path, "model", shapes, torch.float32)
    declared = {**model.config.to_dict(), "architectures": ["T5EncoderModel"], "is_encoder_decoder": False}
    (path / "config.json").write_text(json.dumps(declared | {"dtype": "float32"}, default=str))
    train_tokenizer(TEXT, folder / "tokenizer", 100, 226)
    return path


def _single(shards: Path, folder: Path) -> Path:
    shapes = {key: torch.Size(shape) for key, shape in open_weights(shards).shapes.items()}
    _write_sparse(folder / "model.safetensors", shapes, torch.bfloat16)
    return folder / "model.safetensors"


def _q4_0(shards: Path, folder: Path) -> Path:
    return convert(shards, folder / "model.safetensors", "q4_0")


def _sat(shards: Path, folder: Path) -> Path:
    from tests.support.weight_forms import sat

    return sat(dict(open_weights(shards)), folder)


FORMS = {
    "sharded": Form(lambda shards, _: shards),
    "single": Form(_single),
    "sat": Form(_sat, time_limit=math.inf),
    "q4_0": Form(_q4_0),
    "t5": Form(_t5, component="text_encoder", peer="transformers"),
}


def _write_shards(folder: Path, stem: str, shapes: Shapes, dtype: torch.dtype) -> None:
    folder.mkdir(parents=True)
    shards: list[dict[str, torch.Size]] = [{}]
    used = 0
    for key, shape in shapes.items():
        size = shape.numel() * dtype.itemsize
        if shards[-1] and used + size > SHARD_BYTES:
            shards.append({})
            used = 0
        shards[-1][key] = shape
        used += size
    weight_map = {}
    for number, part in enumerate(shards, start=1):
        name = f"{stem}-{number:05}-of-{len(shards):05}.safetensors"
        _write_sparse(folder / name, part, dtype)
        weight_map |= dict.fromkeys(part, name)
    index = {"metadata": {"total_size": sum(s.numel() for s in shapes.values()) * dtype.itemsize}}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index | {"weight_map": weight_map}))


def _write_sparse(path: Path, shapes: Shapes, dtype: torch.dtype) -> None:
    """A .safetensors file of zeros that takes no disk."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for key, shape in shapes.items():
        start, end = end, end + shape.numel() * dtype.itemsize
        header[key] = {"dtype": DTYPE_NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)


def _bytes(path: Path) -> int:
    files = [path] if path.is_file() else [f for f in path.rglob("*") if f.suffix in (".safetensors", ".pt")]
    return sum(file.stat().st_size for file in files)


# --- Measuring -------------------------------------------------------------------------------------------------------


def _in_a_new_process(who: str, path: Path, *, forward: bool) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", who, "--folder", str(path)]
    command += [] if forward else ["--no-forward"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _measure(open_it: Callable[[], torch.nn.Module], run: Callable[[torch.nn.Module], object] | None) -> dict:
    """Seconds of opening, and the anonymous bytes gained by it and by a forward."""
    before, start = anonymous_memory(), time.perf_counter()
    model = open_it()
    seconds, opened = time.perf_counter() - start, anonymous_memory()
    if run:
        with torch.no_grad():
            run(model)
    return {"seconds": seconds, "opened": opened - before, "forwarded": anonymous_memory() - before}


def _our_transformer(path: Path, forward: bool) -> dict:
    import torch.distributed.tensor  # noqa: F401  (PyTorch imports it at its first tensor subclass)

    return _measure(lambda: load_transformer(path), (lambda model: model(*_inputs(model))) if forward else None)


def _diffusers_transformer(path: Path, forward: bool) -> dict:
    from diffusers import CogVideoXTransformer3DModel

    def run(model: torch.nn.Module) -> None:
        latents, embeds, timestep = _inputs(model)
        rotary = (torch.ones(4, 64), torch.zeros(4, 64))
        model(latents.transpose(1, 2), embeds, timestep, image_rotary_emb=rotary)

    def open_it() -> torch.nn.Module:
        return CogVideoXTransformer3DModel.from_pretrained(path, torch_dtype=torch.bfloat16)

    return _measure(open_it, run if forward else None)


def _inputs(model: Any) -> tuple[torch.Tensor, ...]:
    """Latents [1, 16, 1, 4, 4], embeddings [1, 226, 4096] and timesteps [1]."""
    config = model.config
    latents = torch.randn(1, config.in_channels, 1, 4, 4, dtype=torch.bfloat16)
    embeds = torch.randn(1, config.max_text_seq_length, config.text_embed_dim, dtype=torch.bfloat16)
    return latents, embeds, torch.tensor([999])


def _our_text_encoder(path: Path, forward: bool) -> dict:
    from transformers import T5EncoderModel, T5Tokenizer  # noqa: F401  (imported before the clock starts)

    encoder = []

    def open_it() -> torch.nn.Module:
        encoder.append(load_text_encoder(path))
        return encoder[0].model

    return _measure(open_it, (lambda _: encoder[0]([TEXT[0]])) if forward else None)


def _transformers_text_encoder(path: Path, forward: bool) -> dict:
    from transformers import T5EncoderModel, T5Tokenizer

    tokens = torch.ones(1, 226, dtype=torch.long)

    def open_it() -> torch.nn.Module:
        T5Tokenizer.from_pretrained(path.parent / "tokenizer")
        return T5EncoderModel.from_pretrained(path, dtype=torch.float32)

    return _measure(open_it, (lambda model: model(tokens)) if forward else None)


MEASURES = {
    "ours transformer": _our_transformer,
    "diffusers": _diffusers_transformer,
    "ours text_encoder": _our_text_encoder,
    "transformers": _transformers_text_encoder,
}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--forms", nargs="+", choices=[*FORMS], default=[*FORMS])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-forward", action="store_true", help="measure opening only")
    parser.add_argument("--folder", help="where the files are made; the system's temporary folder otherwise")
    parser.add_argument("--measure", choices=[*MEASURES], help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
