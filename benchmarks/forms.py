"""Every form of file: what each costs in decibels, and what opening a full-size model costs; written to docs/forms.md.

    python benchmarks/forms.py [--only decibels opening] [--threads 1] [--output FILE]

For the decibels, the transformer of the demo model is written in each form by tests/support/weight_forms.py, opened
again, and run on noised latents of scenes no training clip shows. For the opening see benchmarks/loading.py; that takes
14 GB of disk for a while and about ten minutes on two cores. Exits with 1 if an aim is missed.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks import loading
from cogvideox_core import CogVideoXTransformer3D, NoiseSchedule, load_pipeline, load_transformer
from cogvideox_core.demo import DEMO_MODEL
from cogvideox_core.training.demo_world.captions import prompt_of
from cogvideox_core.training.demo_world.world import make_scene, render
from tests.support.parity import snr_db
from tests.support.weight_forms import QUANTIZED, RENAMED, Writer

REPO = Path(__file__).resolve().parents[1]

REPORT = REPO / "docs" / "forms.md"
TIMESTEPS = (200, 500, 800, 999)
SCENES = 8
# What each form must keep, in dB of the transformer's output.
AIMS = {
    "fp8_matrices": 30,
    "fp8_scaled": 30,
    "fp8_scaled_older": 30,
    "int8": 40,
    "Q8_0": 40,
    "Q5_0": 20,
    "Q4_0": 15,
    "Q5_1": 20,
    "Q4_1": 15,
    "nf4": 15,
    "F16": 50,
    "BF16": 40,
}
HEAD = """# What each form of file costs

Written by `python benchmarks/forms.py` on {machine}.

## Decibels

The demo model's transformer (float16 in the repository) in every form, against its diffusers form, both computed in
float32, on {scenes} noised scenes at timesteps {timesteps}. Other names cost nothing, and fewer bits cost
their rounding: `fp8` has no scales and rounds everything, biases too.

{decibels}

## Opening

A 5B transformer in bf16, and T5-XXL in float32: seconds (median of {repeats}, in turn with the peer, which opens the
same weights as shards, each in a process of its own, files in the cache), at most {time_limit}x of the peer's except
for SAT's form; and the memory that is the process's own, as a multiple of the file's size, at most {growth_limit}x.
[loading.md](loading.md) explains why it is so little, and why SAT's form takes longer.

{opening}
"""
REPEATS = 5


class Inputs(NamedTuple):
    latents: Tensor
    prompts: Tensor
    timesteps: Tensor


def main() -> int:
    options = _options()
    torch.set_num_threads(options.threads)
    tables, reached = {}, True
    for name in options.only or PARTS:
        lines, enough = PARTS[name]()
        tables[name] = "\n".join(lines)
        reached &= enough
        print(tables[name], flush=True)
    if not options.only:
        report = HEAD.format(
            machine=f"a {platform.machine()} CPU, {os.cpu_count()} cores, PyTorch {torch.__version__}",
            scenes=SCENES,
            timesteps=", ".join(map(str, TIMESTEPS)),
            repeats=REPEATS,
            time_limit=loading.TIME_LIMIT,
            growth_limit=loading.GROWTH_LIMIT,
            **tables,
        )
        options.output.write_text(report, encoding="utf-8")
    return 0 if reached else 1


def decibels() -> tuple[list[str], bool]:
    """The table's lines, and whether every aim is reached."""
    inputs = make_inputs()
    path = DEMO_MODEL / "transformer"
    state = load_file(path / "diffusion_pytorch_model.safetensors")
    reference, size = output(load_transformer(path, dtype="float32"), inputs), nbytes(path)
    lines, reached = ["| form | asked | output | bytes, of the 16-bit file |", "|---" * 4 + "|"], True
    writers: dict[str, Writer] = {**RENAMED, **{name: writer for name, (writer, _) in QUANTIZED.items()}}
    for name, write in writers.items():
        with tempfile.TemporaryDirectory() as folder:
            file = write(state, Path(folder))
            if file.is_file():  # by this name it is known that the config.json next to it is its own
                file = file.rename(file.with_name(f"diffusion_pytorch_model{file.suffix}"))
            folder_of_config = file if file.is_dir() else file.parent
            (folder_of_config / "config.json").write_text((path / "config.json").read_text())
            measured = snr_db(output(load_transformer(file, dtype="float32"), inputs), reference)
            aim = AIMS.get(name.split(".")[0].split(" ")[0], float("inf") if name in RENAMED else 0)
            ratio = nbytes(file) / size
        reached &= measured >= aim
        asked = "the same" if name in RENAMED else f"{aim} dB" if aim else ""
        difference = "the same" if measured == float("inf") else f"{measured:.1f} dB"
        lines.append(f"| {name} | {asked} | {difference} | {ratio:.2f} |")
    return lines, reached


def opening() -> tuple[list[str], bool]:
    """The table's lines, and whether every aim is reached."""
    return loading.table(list(loading.FORMS), REPEATS)


PARTS = {"decibels": decibels, "opening": opening}


def make_inputs() -> Inputs:
    """Noised latents of held-out scenes, with their prompts."""
    pipeline = load_pipeline(dtype=torch.float32, device="cpu")
    scenes = [make_scene(seed, held_out=True) for seed in range(SCENES)]
    video = torch.stack([render(scene) for scene in scenes]) * 2 - 1
    schedule = NoiseSchedule(pipeline.variant.schedule)
    generator = torch.Generator().manual_seed(0)
    assert pipeline.text_encoder is not None
    with torch.no_grad():
        clean = pipeline.vae.encode(video).mean * pipeline.variant.vae.scaling_factor
        prompts = pipeline.text_encoder([prompt_of(scene) for scene in scenes])
    latents = []
    for timestep in TIMESTEPS:
        alpha, noise = schedule.alpha(timestep), torch.randn(clean.shape, generator=generator)
        latents.append(alpha**0.5 * clean + (1 - alpha) ** 0.5 * noise)
    repeated = torch.tensor(TIMESTEPS).repeat_interleave(SCENES)
    return Inputs(torch.cat(latents), prompts.repeat(len(TIMESTEPS), 1, 1), repeated)


@torch.no_grad()
def output(model: CogVideoXTransformer3D, inputs: Inputs) -> Tensor:
    parts = zip(*(part.split(SCENES) for part in inputs), strict=True)
    return torch.cat([model(*part) for part in parts])


def nbytes(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.suffix in (".safetensors", ".pt")]
    return sum(file.stat().st_size for file in files)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[*PARTS], help="these tables, and no report")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=REPORT)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
