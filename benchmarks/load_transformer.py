"""Opening a full-size transformer: resident memory and time, ours beside diffusers, each in a process of its own.

Writes random bf16 weights once (11 GB for a 5B model) in the forms asked for, then opens each, runs one forward on a
small latent, and prints what was measured; diffusers opens the official shards. Needs about as much free memory as the
weights take, and the disk for one form at a time beside the shards.

    python benchmarks/load_transformer.py [--variant CogVideoX-5B] [--forms sharded single sat q4_0]
        [--folder FOLDER] [--keep] [--no-peer]
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file

from cogvideox_core import VARIANTS, CogVideoXTransformer3D, load_transformer
from cogvideox_core.config import TransformerConfig
from cogvideox_core.convert import convert
from cogvideox_core.weights import open_weights

SHARD_BYTES = 5_000_000_000
LIMIT = 1.1  # resident growth, in sizes of the files


def main() -> int:
    options = _options()
    if options.measure:
        print(json.dumps(_measure(options.measure, Path(options.folder))))
        return 0
    folder = Path(options.folder or tempfile.mkdtemp(prefix="cogvideox-load-"))
    shards = folder / "sharded"
    rows: dict[str, dict[str, float]] = {}
    try:
        size = write_checkpoint(shards, VARIANTS[options.variant].transformer)
        for form in options.forms:
            place = FORMS[form](shards, folder / form)
            rows[f"ours, {form}"] = _in_a_new_process("ours", place) | {"size": _bytes(place)}
            if place != shards and not options.keep:
                shutil.rmtree(folder / form)
        if not options.no_peer:
            rows["diffusers, sharded"] = _in_a_new_process("diffusers", shards) | {"size": size}
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    print(f"{options.variant}, bf16 or what the form stores, CPU; memory in sizes of the file")
    print("| | file, GB | open, s | resident after opening | of it anonymous | resident after a forward | forward, s |")
    print("|---|---|---|---|---|---|---|")
    for who, row in rows.items():
        memory = [f"{row[name] / row['size']:.2f}x" for name in ("opened", "opened_anonymous", "forwarded")]
        print(
            f"| {who} | {row['size'] / 1e9:.2f} | {row['open_s']:.2f} | {' | '.join(memory)} | {row['forward_s']:.1f} |"
        )
    ours = [row for who, row in rows.items() if who.startswith("ours")]
    if "diffusers, sharded" in rows and "ours, sharded" in rows:
        print(
            f"opening, ours / diffusers: {rows['ours, sharded']['open_s'] / rows['diffusers, sharded']['open_s']:.2f}"
        )
    growth = max(max(row["opened"], row["forwarded"]) / row["size"] for row in ours)
    print(f"resident growth at most {growth:.2f}x of the file; the limit is {LIMIT}x")
    return 0 if growth < LIMIT else 1


def _bytes(place: Path) -> int:
    files = (
        [place] if place.is_file() else [file for file in place.rglob("*") if file.suffix in (".safetensors", ".pt")]
    )
    return sum(file.stat().st_size for file in files)


def _single(shards: Path, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return convert(shards, folder / "model.safetensors", "single")


def _q4_0(shards: Path, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return convert(shards, folder / "model.safetensors", "q4_0")


def _sat(shards: Path, folder: Path) -> Path:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    from forms import sat

    return sat(dict(open_weights(shards)), folder)


# From the shards to another form.
FORMS: dict[str, Callable[[Path, Path], Path]] = {
    "sharded": lambda shards, folder: shards,
    "single": _single,
    "sat": _sat,
    "q4_0": _q4_0,
}


def write_checkpoint(folder: Path, config: TransformerConfig) -> int:
    """Random weights of this shape as sharded diffusers files, unless they are there; the bytes of all tensors."""
    shapes = {key: t.shape for key, t in CogVideoXTransformer3D(config, device="meta").state_dict().items()}
    size = sum(shape.numel() for shape in shapes.values()) * 2
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    if index.exists():
        return size
    folder.mkdir(parents=True, exist_ok=True)
    shards = list(_shards(shapes))
    weight_map = {}
    for number, keys in enumerate(shards, start=1):
        name = f"diffusion_pytorch_model-{number:05}-of-{len(shards):05}.safetensors"
        save_file({key: _random(shapes[key]) for key in keys}, folder / name)
        weight_map |= dict.fromkeys(keys, name)
    declared = {"_class_name": "CogVideoXTransformer3DModel", **asdict(config)}
    (folder / "config.json").write_text(json.dumps(declared, indent=2))
    index.write_text(json.dumps({"metadata": {"total_size": size}, "weight_map": weight_map}))
    return size


def _shards(shapes: dict[str, torch.Size]) -> Iterator[list[str]]:
    keys: list[str] = []
    used = 0
    for key, shape in shapes.items():
        if keys and used + shape.numel() * 2 > SHARD_BYTES:
            yield keys
            keys, used = [], 0
        keys.append(key)
        used += shape.numel() * 2
    yield keys


def _random(shape: torch.Size) -> torch.Tensor:
    """Small random values; a repeated block, since drawing billions would take longer than the measurement."""
    block = torch.randn(min(shape.numel(), 1 << 22), generator=torch.Generator().manual_seed(shape.numel())) * 0.02
    repeats = -(-shape.numel() // len(block))
    return block.bfloat16().repeat(repeats)[: shape.numel()].reshape(shape)


def _in_a_new_process(who: str, folder: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", who, "--folder", str(folder)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


@torch.no_grad()
def _measure(who: str, folder: Path) -> dict[str, float]:
    """Seconds and resident bytes of one opening and one forward, above what the imports took."""
    if who == "diffusers":
        from diffusers import CogVideoXTransformer3DModel
    before = _resident()
    start = time.perf_counter()
    if who == "diffusers":
        model = CogVideoXTransformer3DModel.from_pretrained(folder, torch_dtype=torch.bfloat16)
    else:
        model = load_transformer(folder)
    opened_at, opened = time.perf_counter(), _resident()
    _forward(model, who)
    forwarded = _resident()
    return {
        "open_s": opened_at - start,
        "forward_s": time.perf_counter() - opened_at,
        "opened": opened["VmRSS"] - before["VmRSS"],
        "opened_anonymous": opened["RssAnon"] - before["RssAnon"],
        "forwarded": forwarded["VmRSS"] - before["VmRSS"],
    }


def _forward(model: torch.nn.Module, who: str) -> None:
    config = model.config
    frames = config.patch_size_t or 1
    latents = torch.randn(1, config.in_channels, frames, 4, 4, dtype=torch.bfloat16)
    embeds = torch.randn(1, config.max_text_seq_length, config.text_embed_dim, dtype=torch.bfloat16)
    timestep = torch.tensor([999])
    if who == "diffusers":
        rotary = (torch.ones(4, config.attention_head_dim), torch.zeros(4, config.attention_head_dim))
        out = model(latents.transpose(1, 2), embeds, timestep, image_rotary_emb=rotary).sample
    else:
        out = model(latents, embeds, timestep)
    assert out.isfinite().all()


def _resident() -> dict[str, int]:
    """Bytes of VmRSS and RssAnon of this process (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    values = dict(line.split(":", 1) for line in lines)
    return {name: int(values[name].split()[0]) * 1024 for name in ("VmRSS", "RssAnon")}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Opening a full-size transformer: resident memory and time.")
    parser.add_argument("--variant", choices=[*VARIANTS], default="CogVideoX-5B")
    parser.add_argument("--forms", nargs="+", choices=[*FORMS], default=["sharded"], help="default: sharded")
    parser.add_argument("--folder", help="where the weights are written; a temporary folder otherwise")
    parser.add_argument("--keep", action="store_true", help="leave the weights in the folder")
    parser.add_argument("--no-peer", action="store_true", help="measure ours only")
    parser.add_argument("--measure", choices=["ours", "diffusers"], help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
