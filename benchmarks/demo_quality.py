"""The demo models against what is asked of them: one table, written to docs/demo-quality.md.

    python benchmarks/demo_quality.py [--only NAME ...] [--seeds 2] [--threads 2] [--output FILE]

NAME is one of: judge, text, image, ends, int8, vae, files, speed, diffusers; those rows of the table are renewed. Exits
with 1 if an aim is missed. Takes three quarters of an hour on two cores. Videos are made of prompts whose combination
of colour, shape and motion no training clip shows (`demo.HELD_OUT`); `demo.judge`, which has learned nothing, says what
they show.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.measuring import machine_name
from cogvideox_core import CogVideoXPipeline, load_pipeline, load_vae
from cogvideox_core.demo import DEMO_GUIDANCE, DEMO_MODELS, DEMO_STEPS
from cogvideox_core.training.demo_world.captions import prompt_of
from cogvideox_core.training.demo_world.world import (
    BACKGROUNDS,
    COLOURS,
    HELD_OUT,
    MOTIONS,
    SHAPES,
    Scene,
    make_scene,
    render,
    scene_of,
)
from cogvideox_core.weights.quantize import Method
from tools.judge import Verdict, judge

REPORT = Path(__file__).resolve().parents[1] / "docs" / "demo-quality.md"
WORDS = ("colour", "shape", "motion")
BATCH = 8
PAIRS = 24  # videos from a first to a last image
CLIPS = 48  # videos the VAE codes


class Row(NamedTuple):
    """One line of the table."""

    what: str
    asked: str
    measured: str
    reached: bool


def main() -> int:
    options = _options()
    torch.set_num_threads(options.threads)
    known = options.output.with_suffix(".json")
    parts: dict[str, dict] = json.loads(known.read_text(encoding="utf-8")) if known.exists() else {}
    reached = True
    for name in options.only or PARTS:
        print(f"--- {name}", file=sys.stderr, flush=True)
        rows = list(PARTS[name](options))
        print("\n".join(map(_line, rows)), flush=True)
        reached &= all(row.reached for row in rows)
        parts[name] = {"machine": machine_name(torch.device("cpu"), options.threads), "rows": rows}
    known.write_text(json.dumps(parts, indent=1) + "\n", encoding="utf-8")
    options.output.write_text(_report(parts), encoding="utf-8")
    return 0 if reached else 1


HEAD = """# What the demo models can do

Written by `python benchmarks/demo_quality.py`. Prompts are combinations of colour, shape and motion that no training
clip shows; a judge without any training (`tools/judge.py`) reads the videos.

| what | asked | measured | reached |
|---|---|---|---|
"""


def _report(parts: dict[str, dict]) -> str:
    """The page, in the order of the parts, and what they were measured on."""
    lines = [_line(Row(*row)) for name in PARTS if name in parts for row in parts[name]["rows"]]
    machines: dict[str, list[str]] = {}
    for name in PARTS:
        if name in parts:
            machines.setdefault(parts[name]["machine"], []).append(name)
    measured_on = [f"- {', '.join(names)}: {machine}" for machine, names in machines.items()]
    return HEAD + "\n".join([*lines, "", "Measured on:", "", *measured_on]) + "\n"


def _line(row: Row) -> str:
    return f"| {row.what} | {row.asked} | {row.measured} | {'yes' if row.reached else '**no**'} |"


# --- Judged videos -----------------------------------------------------------------------------------------------


def judge_rows(_: argparse.Namespace) -> Iterator[Row]:
    """The judge on rendered scenes, and against the words of other scenes."""
    scenes = [make_scene(seed, pairs=0.0) for seed in range(10_000, 10_500)]
    judged = _judged(scenes, (render(scene) for scene in tqdm(scenes, "judging", unit="video")))
    yield _percent(
        f"the judge on {len(scenes)} rendered videos: colour, shape and motion right", _all_right(judged), 99
    )
    others = [(judged[index - 1][0], verdict) for index, (_, verdict) in enumerate(judged)]
    for word, choices in zip(WORDS, (COLOURS, SHAPES, MOTIONS), strict=True):
        found = _right(others, word)
        chance = 1 / len(choices)
        spread = 3 * math.sqrt(chance * (1 - chance) / len(scenes))
        asked = f"{chance:.1%} ± {spread:.1%} (chance)"
        yield Row(f"the judge, {word}s of other scenes", asked, f"{found:.1%}", abs(found - chance) <= spread)


def text_rows(options: argparse.Namespace) -> Iterator[Row]:
    """Text to video, on every held-out combination."""
    scenes = _scenes(options.seeds)
    pipeline = load_pipeline(DEMO_MODELS["text-to-video"], dtype=torch.float32, device="cpu")
    judged = _judged(scenes, _videos(pipeline, scenes))
    prompts = f"{len(HELD_OUT)} unseen prompts x {options.seeds} seeds"
    for word, least in zip(WORDS, (95, 90, 90), strict=True):
        yield _percent(f"text to video, {prompts}: {word} right", _right(judged, word), least)
    yield _percent(f"text to video, {prompts}: all three right", _all_right(judged), 85)
    background = statistics.fmean(verdict.background == scene.background for scene, verdict in judged)
    yield Row(f"text to video, {prompts}: background right", "", f"{background:.1%}", True)


def image_rows(options: argparse.Namespace) -> Iterator[Row]:
    """Image to video: a scene's first frame and its prompt."""
    scenes = _scenes(1)
    pipeline = load_pipeline(DEMO_MODELS["image-to-video"], dtype=torch.float32, device="cpu")
    images = [render(scene)[:, 0] for scene in scenes]
    videos = list(_videos(pipeline, scenes, image=images))
    prompts = f"{len(scenes)} unseen prompts"
    yield _decibels(f"image to video, {prompts}: first frame against the image", _closeness(videos, 0, images), 25)
    yield _percent(f"image to video, {prompts}: motion right", _right(_judged(scenes, videos), "motion"), 85)


def ends_rows(_: argparse.Namespace) -> Iterator[Row]:
    """From a first to a last image of one scene."""
    scenes = _scenes(1)[:: len(HELD_OUT) // PAIRS][:PAIRS]
    pipeline = load_pipeline(DEMO_MODELS["image-to-video"], dtype=torch.float32, device="cpu")
    clips = [render(scene) for scene in scenes]
    first, last = [clip[:, 0] for clip in clips], [clip[:, -1] for clip in clips]
    videos = list(_videos(pipeline, scenes, image=first, last_image=last))
    for name, frame, images in (("first", 0, first), ("last", -1, last)):
        closeness = _closeness(videos, frame, images)
        yield _decibels(f"first and last image, {len(scenes)} prompts: {name} frame", closeness, 22)


def int8_rows(options: argparse.Namespace) -> Iterator[Row]:
    """Text to video in 8 bits, next to the same model in bfloat16."""
    scenes = _scenes(options.seeds)
    prompts = f"{len(HELD_OUT)} unseen prompts x {options.seeds} seeds"
    whole: list[Tensor] = []
    for method in get_args(Method):
        pipeline = load_pipeline(DEMO_MODELS["text-to-video"], dtype=torch.bfloat16, device="cpu", quantize=method)
        videos = list(_videos(pipeline, scenes))
        share = _all_right(_judged(scenes, videos))
        if method == "none":
            whole, least = videos, 100 * share - 2
            yield Row(f"bfloat16, {prompts}: all three right", "", f"{share:.1%}", True)
            continue
        yield _percent(f"{method}, {prompts}: all three right", share, least)
        closeness = statistics.fmean(psnr(video, other) for video, other in zip(videos, whole, strict=True))
        yield _decibels(f"{method}, {prompts}: against bfloat16", closeness, 35)


def _scenes(seeds: int) -> list[Scene]:
    """Every held-out combination, `seeds` times, in front of all backgrounds in turn."""
    backgrounds = list(BACKGROUNDS)
    combinations = sorted(HELD_OUT) * seeds
    return [
        scene_of(*combination, background=backgrounds[(index + index // len(HELD_OUT)) % len(backgrounds)], seed=index)
        for index, combination in enumerate(combinations)
    ]


def _videos(pipeline: CogVideoXPipeline, scenes: Sequence[Scene], **pictures: list[Tensor]) -> Iterator[Tensor]:
    """[3, F, H, W] of each scene's prompt, as the command makes it, with its index in the list as the seed."""
    defaults = pipeline.variant.defaults
    with tqdm(total=len(scenes), desc="making videos", unit="video") as bar:
        for indices in _batches(len(scenes)):
            given: dict[str, Any] = {
                name: torch.stack([images[index] for index in indices]) for name, images in pictures.items()
            }
            yield from pipeline(
                [prompt_of(scenes[index]) for index in indices],
                num_inference_steps=DEMO_STEPS,
                guidance_scale=DEMO_GUIDANCE,
                use_dynamic_cfg=defaults.use_dynamic_cfg,
                sampler=defaults.sampler,
                generator=[torch.Generator().manual_seed(index) for index in indices],
                **given,
            )
            bar.update(len(indices))


def _batches(count: int) -> list[range]:
    return [range(start, min(start + BATCH, count)) for start in range(0, count, BATCH)]


Judged = Sequence[tuple[Scene, Verdict]]


def _judged(scenes: Sequence[Scene], videos: Iterable[Tensor]) -> Judged:
    return [(scene, judge(video)) for scene, video in zip(scenes, videos, strict=True)]


def _right(judged: Judged, word: str) -> float:
    """Share of the videos that show what the scene's word says."""
    return statistics.fmean(getattr(verdict, word) == getattr(scene.things[0], word) for scene, verdict in judged)


def _all_right(judged: Judged) -> float:
    """Share of those that show colour, shape and motion; the others are named on stderr."""
    wrong = [pair for pair in judged if not pair[1].matches(*pair[0].things[0].combination)]
    for scene, verdict in wrong:
        asked = " ".join(scene.things[0].combination)
        print(f"  {asked}: {verdict.colour} {verdict.shape} {verdict.motion}", file=sys.stderr)
    return 1 - len(wrong) / len(judged)


def _closeness(videos: Sequence[Tensor], frame: int, images: Sequence[Tensor]) -> float:
    """Mean decibels of one frame of each video against the image given for it."""
    return statistics.fmean(psnr(video[:, frame], image) for video, image in zip(videos, images, strict=True))


# --- The rest ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def vae_rows(_: argparse.Namespace) -> Iterator[Row]:
    """The VAE on held-out scenes."""
    vae = load_vae(DEMO_MODELS["text-to-video"], dtype=torch.float32)
    scores = []
    for seeds in tqdm(_batches(CLIPS), "coding", unit="batch"):
        video = torch.stack([render(make_scene(seed, held_out=True)) for seed in seeds])
        latents = vae.encode(video * 2 - 1).mean
        decoded = vae.decode(latents)
        scores += [psnr(ours / 2 + 0.5, truth) for ours, truth in zip(decoded, video, strict=True)]
    yield _decibels(f"VAE, {CLIPS} unseen videos", statistics.fmean(scores), 30)


def files_rows(_: argparse.Namespace) -> Iterator[Row]:
    """Size on disk and time to load, in a new process."""
    files = [file for folder in DEMO_MODELS.values() for file in folder.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files) / 2**20
    yield Row("both models, in the repository", "<= 24 MiB", f"{size:.1f} MiB", size <= 24)
    script = (
        "import time, transformers, cogvideox_core as core\n"
        "started = time.perf_counter(); core.load_pipeline(device='cpu'); print(time.perf_counter() - started)"
    )
    seconds = statistics.median(float(_python("-c", script)) for _ in range(5))
    yield Row("load_pipeline(), after imports", "<= 2 s", f"{seconds:.2f} s", seconds <= 2)


def speed_rows(_: argparse.Namespace) -> Iterator[Row]:
    """The command, from its start to the file, with the default clip."""
    times = []
    with tempfile.TemporaryDirectory() as folder:
        for index in range(3):
            started = time.perf_counter()
            _python("-m", "cogvideox_core", "a red ball bouncing", "--device", "cpu", "-o", f"{folder}/{index}.mp4")
            times.append(time.perf_counter() - started)
    seconds = statistics.median(times)
    what = f"the command with the default clip ({DEMO_STEPS} steps), start to file"
    yield Row(what, "<= 30 s", f"{seconds:.1f} s", seconds <= 30)


def diffusers_rows(_: argparse.Namespace) -> Iterator[Row]:
    """The same folders in diffusers, as they are, with the same noise."""
    import diffusers

    scene = scene_of("red", "star", "growing", "the sea")
    classes = {"text-to-video": diffusers.CogVideoXPipeline, "image-to-video": diffusers.CogVideoXImageToVideoPipeline}
    for task, kind in classes.items():
        given = {"prompt": prompt_of(scene), "num_inference_steps": DEMO_STEPS, "num_frames": 17, "guidance_scale": 6.0}
        if task == "image-to-video":
            given["image"] = render(scene)[:, 0]
        theirs = kind.from_pretrained(DEMO_MODELS[task], torch_dtype=torch.float32)
        theirs.set_progress_bar_config(disable=True)
        theirs.scheduler = diffusers.CogVideoXDDIMScheduler.from_config(theirs.scheduler.config)
        wanted = theirs(**given, generator=torch.Generator().manual_seed(1), output_type="pt").frames.transpose(1, 2)
        ours = load_pipeline(DEMO_MODELS[task], dtype=torch.float32, device="cpu")
        apart = (ours(**given, generator=torch.Generator().manual_seed(1)) - wanted).abs().max().item()
        yield Row(
            f"diffusers with the same folder, {task}, {DEMO_STEPS} steps", "<= 1e-4", f"{apart:.1e}", apart <= 1e-4
        )


# --- Numbers -----------------------------------------------------------------------------------------------------


def psnr(video: Tensor, truth: Tensor) -> float:
    """Decibels, values from 0 to 1."""
    return -10 * math.log10((video.clamp(0, 1) - truth).square().mean().item())


def _percent(what: str, share: float, least: float) -> Row:
    return Row(what, f">= {least:.3g} %", f"{share:.1%}", share >= least / 100)


def _decibels(what: str, measured: float, least: int) -> Row:
    return Row(what, f">= {least} dB", f"{measured:.1f} dB", measured >= least)


def _python(*arguments: str) -> str:
    """Output of a new Python."""
    return subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True).stdout


PARTS: dict[str, Callable[[argparse.Namespace], Iterator[Row]]] = {
    "judge": judge_rows,
    "text": text_rows,
    "image": image_rows,
    "ends": ends_rows,
    "int8": int8_rows,
    "vae": vae_rows,
    "files": files_rows,
    "speed": speed_rows,
    "diffusers": diffusers_rows,
}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=tuple(PARTS), help="these parts alone")
    parser.add_argument("--seeds", type=int, default=2, help="videos of each prompt")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=REPORT)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
