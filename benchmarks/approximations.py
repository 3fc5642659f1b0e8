"""What approximations save and cost, each next to the exact run; docs/approximations.md.

    python benchmarks/approximations.py [--scenes NAME ...] [--clips 3] [--threads 2] [--device cpu] [--output FILE]

Each option runs at several settings on the same seeds as the exact run. The share of work counts clips that the
transformer was asked for; time is that of the whole run. Takes about 12 minutes on two cores. The scene "full" has the
size of CogVideoX-5B, is meant for a GPU, and runs only when asked for.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.measuring import machine_name
from cogvideox_core import VARIANTS, load_pipeline
from cogvideox_core.demo import DEMO_GUIDANCE, DEMO_MODEL
from cogvideox_core.models.transformer.model import CogVideoXTransformer3D
from cogvideox_core.models.variants import SamplerName
from cogvideox_core.pipeline.pipeline import Progress
from cogvideox_core.sampling.approximation import EXACT, Approximation
from cogvideox_core.sampling.loop import denoise
from cogvideox_core.sampling.noise_schedule import NoiseSchedule
from cogvideox_core.sampling.predictor import Conditions, TransformerPredictor
from cogvideox_core.sampling.samplers import make_sampler
from cogvideox_core.training.demo_world.captions import prompt_of
from cogvideox_core.training.demo_world.world import make_scene
from tests.support.parity import snr_db

REPO = Path(__file__).resolve().parents[1]

REPORT = REPO / "docs" / "approximations.md"
ALL = [
    *(Approximation(cache_budget=budget) for budget in (0.01, 0.02, 0.03, 0.05, 0.1)),
    *(Approximation(teacache=threshold) for threshold in (0.1, 0.2)),
    *(Approximation(guidance_until=part) for part in (0.8, 0.6)),
    Approximation(cache_budget=0.03, guidance_until=0.8),
]
SOME = [ALL[0], ALL[2], ALL[4], ALL[6], ALL[7]]
FEW = [Approximation(cache_budget=0.03), Approximation(cache_budget=0.1), Approximation(guidance_until=0.6)]


class Made(NamedTuple):
    """What one run made, and what it took."""

    latents: Tensor
    video: Tensor | None
    clips: int
    seconds: float


Run = Callable[[Approximation, int], Made]
"""A run under an approximation, with this seed."""


@dataclass(frozen=True)
class Scene:
    what: str
    make: Callable[[torch.device], Run]
    options: list[Approximation]
    trained: bool = False
    peer: Callable[[torch.device], Callable[[int], float]] | None = None  # seconds of diffusers with this seed


# --- Scenes ----------------------------------------------------------------------------------------------------------


def _demo(sampler: SamplerName, steps: int) -> Callable[[torch.device], Run]:
    def make(device: torch.device) -> Run:
        pipeline = load_pipeline(DEMO_MODEL, dtype=torch.float32, device=device)
        clips = _counted(pipeline.transformer)

        def run(approximation: Approximation, seed: int) -> Made:
            clips.clear()
            seen: list[Tensor] = []

            def remember(progress: Progress) -> None:
                if progress.latents is not None:
                    seen[:] = [progress.latents]

            asked: dict[str, Any] = {"num_inference_steps": steps, "guidance_scale": DEMO_GUIDANCE, "sampler": sampler}
            asked |= vars(approximation)
            generator = torch.Generator().manual_seed(seed)
            start = time.perf_counter()
            video = pipeline(_prompt(seed), generator=generator, callback=remember, **asked)
            return Made(seen[0], video, sum(clips), time.perf_counter() - start)

        return run

    return make


def _demo_in_diffusers(steps: int) -> Callable[[torch.device], Callable[[int], float]]:
    def make(device: torch.device) -> Callable[[int], float]:
        import diffusers

        pipeline = diffusers.CogVideoXPipeline.from_pretrained(DEMO_MODEL, torch_dtype=torch.float32).to(device)
        pipeline.set_progress_bar_config(disable=True)
        asked: dict[str, Any] = {"num_inference_steps": steps, "guidance_scale": DEMO_GUIDANCE, "num_frames": 17}

        def run(seed: int) -> float:
            start = time.perf_counter()
            pipeline(_prompt(seed), generator=torch.Generator().manual_seed(seed), output_type="pt", **asked)
            return time.perf_counter() - start

        return run

    return make


def _prompt(seed: int) -> str:
    """A prompt whose combination was never trained."""
    return prompt_of(make_scene(seed, held_out=True))


def _random(
    shape: dict[str, int], size: tuple[int, int, int], dtype: torch.dtype, sampler: SamplerName, steps: int
) -> Callable[[torch.device], Run]:
    """A transformer with random weights and nothing around it."""

    def make(device: torch.device) -> Run:
        variant = VARIANTS["CogVideoX-5B"]
        config = replace(variant.transformer, **shape)
        torch.manual_seed(0)
        transformer = CogVideoXTransformer3D(config, dtype=dtype, device=device, variant=variant)
        transformer.eval().requires_grad_(False)
        clips = _counted(transformer)

        def run(approximation: Approximation, seed: int) -> Made:
            clips.clear()
            generator = torch.Generator().manual_seed(seed)

            def draw(like: Tensor) -> Tensor:
                return torch.randn(like.shape, generator=generator).to(device)

            latents = draw(torch.empty(1, config.out_channels, *size))
            embeds = draw(torch.empty(2, config.max_text_seq_length, config.text_embed_dim)).to(dtype)
            start = time.perf_counter()
            run_steps = NoiseSchedule(variant.schedule).steps(steps)
            conditions = Conditions(embeds[:1], embeds[1:])
            with TransformerPredictor(transformer, run_steps, conditions, approximation=approximation) as predictor:
                latents = denoise(predictor, latents, run_steps, make_sampler(sampler, draw))
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            return Made(latents, None, sum(clips), time.perf_counter() - start)

        return run

    return make


def _counted(transformer: torch.nn.Module) -> list[int]:
    """A list that gets the number of clips of every forward."""
    clips: list[int] = []
    transformer.register_forward_pre_hook(lambda module, given: clips.append(len(given[0])))
    return clips


_MIDDLE = dict(num_attention_heads=12, num_layers=4, time_embed_dim=256, text_embed_dim=512)
_TRAINED = "the demo model, {} steps of {}"
_MADE_UP = "random weights, 2,018 tokens, 20 steps of {}"

SCENES = {
    "demo-25": Scene(_TRAINED.format(25, "ddim"), _demo("ddim", 25), ALL, True, _demo_in_diffusers(25)),
    "demo-50": Scene(_TRAINED.format(50, "ddim"), _demo("ddim", 50), ALL, True, _demo_in_diffusers(50)),
    "demo-25-dpm": Scene(_TRAINED.format(25, "dpm"), _demo("dpm", 25), SOME, True),
    "demo-50-dpm": Scene(_TRAINED.format(50, "dpm"), _demo("dpm", 50), SOME, True),
    "middle": Scene(_MADE_UP.format("ddim"), _random(_MIDDLE, (7, 32, 32), torch.float32, "ddim", 20), FEW),
    "middle-dpm": Scene(_MADE_UP.format("dpm"), _random(_MIDDLE, (7, 32, 32), torch.float32, "dpm", 20), FEW),
    "full": Scene(
        "random weights of the size of CogVideoX-5B, 49 x 480 x 720, 50 steps of ddim, bfloat16",
        _random({}, (13, 60, 90), torch.bfloat16, "ddim", 50),
        FEW,
    ),
}


# --- Measuring -------------------------------------------------------------------------------------------------------


def rows(scene: Scene, clips: int, device: torch.device) -> list[str]:
    """A line for every option of a scene. All run in turn, seed by seed, so that neighbours in time are compared."""
    run = scene.make(device)
    peer = scene.peer(device) if scene.peer else None
    if scene.trained:
        run(EXACT, 0)  # to warm up
    exact: list[Made] = []
    of_peer: list[float] = []
    made: dict[Approximation, list[Made]] = {option: [] for option in scene.options}
    for seed in range(clips if scene.trained else 1):
        exact.append(run(EXACT, seed))
        for option, results in made.items():
            results.append(run(option, seed))
        if peer:
            of_peer.append(peer(seed))

    def ratio(seconds: list[float]) -> str:
        pairs = zip(seconds, exact, strict=True)
        return f"{statistics.median(mine / whole.seconds for mine, whole in pairs):.2f}x"

    lines = [_line(scene.what, "exact", "1.00", f"1.00x ({exact[-1].seconds:.1f} s)", "", "", "")]
    if peer:
        lines.append(_line(scene.what, "diffusers", "", ratio(of_peer), "", "", ""))
    for option, results in made.items():
        pairs = [*zip(results, exact, strict=True)]
        work = sum(one.clips for one in results) / sum(whole.clips for whole in exact)
        decibels = [
            _told([_psnr(one.video, whole.video) for one, whole in pairs]),
            _told([_snr(one.video, whole.video) for one, whole in pairs]),
            _told([snr_db(one.latents, whole.latents) for one, whole in pairs]),
        ]
        time_ratio = ratio([one.seconds for one in results])
        lines.append(_line(scene.what, _name(option), f"{work:.2f}", time_ratio, *decibels))
    return lines


def _name(option: Approximation) -> str:
    changed = [f"{name} {value:g}" for name, value in vars(option).items() if value != getattr(EXACT, name)]
    return ", ".join(changed)


def _psnr(video: Tensor | None, wanted: Tensor | None) -> float:
    """Peak signal to noise of videos in [0, 1]."""
    if video is None or wanted is None:
        return math.nan
    return -10 * math.log10(max(float((video - wanted).double().square().mean()), 1e-20))


def _snr(video: Tensor | None, wanted: Tensor | None) -> float:
    """Signal to noise of videos about middle grey."""
    return math.nan if video is None or wanted is None else snr_db(video * 2 - 1, wanted * 2 - 1)


def _told(decibels: list[float]) -> str:
    """Mean and worst."""
    if any(math.isnan(value) for value in decibels):
        return ""
    mean = f"{statistics.fmean(decibels):.0f}"
    return mean if len(decibels) == 1 else f"{mean} ({min(decibels):.0f})"


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


# --- The report ------------------------------------------------------------------------------------------------------


def main() -> int:
    options = _options()
    torch.set_num_threads(options.threads)
    titles = ("scene", "option", "work", "time", "video, PSNR", "video, SNR", "latents, SNR")
    lines = [_line(*titles), "|---" * len(titles) + "|"]
    print("\n".join(lines))
    for name in options.scenes:
        with torch.no_grad():
            for line in rows(SCENES[name], options.clips, torch.device(options.device)):
                print(line, flush=True)
                lines.append(line)
    if options.scenes == _STANDARD:
        options.output.write_text(
            HEAD.format(machine=machine_name(torch.device(options.device), options.threads)) + "\n".join(lines) + "\n",
            encoding="utf-8",
        )
    return 0


HEAD = """# What approximations save and cost

Written by `python benchmarks/approximations.py` on {machine}.

Everything here is off by default. `cache_budget` predicts a step from the steps before, as long as the estimated mean
relative error of v over the run stays below it. `teacache` chooses the steps to predict by TeaCache's rule instead.
`guidance_until` leaves out the negative prompt after that part of the steps. In Python they are arguments of a
pipeline, on the command line `--cache-budget`, `--teacache` and `--guidance-until`, in ComfyUI inputs of the node
CogVideoX Speed.

Work is the transformer's, as a share of our exact run; time is that of the whole run, as a multiple of our exact
run's. Everything else, above all the VAE, takes as long as before. Times of single runs vary on a machine with other
work; the share of work does not. The dB compare with the exact run, mean (and worst) of the clips; PSNR takes the
range of a pixel as the signal, SNR the signal itself. A video that differs much from the exact one need not be worse:
dpm adds noise in every step, so a small difference becomes another video sooner than with ddim.

Random weights behave differently from trained ones: their output changes smoothly under ddim, and with the new noise
of each step under dpm. So their dB and their share of work say nothing about a real model; those scenes show that
saved work is saved time if steps are long. TeaCache's polynomials were fitted to the official weights, not to the
demo model's.

"""


_STANDARD = [name for name in SCENES if name != "full"]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", nargs="+", choices=[*SCENES], default=_STANDARD, help="these, and no report")
    parser.add_argument("--clips", type=int, default=3, help="of the demo model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=REPORT)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
