"""Three ablations of the CogVideoX paper (arXiv 2408.06072, section 4.1) on the small world: curves and a table.

    python benchmarks/ablations.py [--steps 600] [--seeds 2] [--folder FOLDER] [--output docs/ablations]

Trains the same small transformer with one thing changed at a time, on the same clips, with the demo's VAE and text
encoder (frozen), and writes docs/ablations.png and docs/ablations.md. Runs whose folder is complete are not repeated.
Takes about half an hour on two cores. Needs the extra `benchmarks`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import Linear

from cogvideox_core import load_vae
from cogvideox_core.demo import DEMO_MODEL
from cogvideox_core.models.transformer.model import CogVideoXTransformer3D, ExpertLayerNorm
from cogvideox_core.training.demo_world.captions import prompt_of
from cogvideox_core.training.demo_world.world import make_scene, render
from cogvideox_core.training.demo_world.world_clips import WorldClips
from cogvideox_core.training.diffusion_objective import DiffusionObjective, Group
from cogvideox_core.training.objective import seeded_generator
from cogvideox_core.training.recipe import parse_recipe
from cogvideox_core.training.run_folder import RunFolder
from cogvideox_core.training.stages import Folders, make_objective
from cogvideox_core.training.training_loop import train

REPORT = Path(__file__).resolve().parents[1] / "docs" / "ablations"
RECIPE: dict[str, Any] = {
    "stage": "diffusion",
    "variant": "CogVideoX-5B",
    "transformer": {
        "num_attention_heads": 2,
        "num_layers": 4,
        "time_embed_dim": 64,
        "text_embed_dim": 128,
        "sample_height": 6,
        "sample_width": 6,
        "sample_frames": 17,
    },
    "text_tokens": 40,
    "buckets": [{"num_frames": 17, "height": 48, "width": 48, "count": 4000, "share": 1.0}],
}
OPTIMISATION = {"batch_size": 24, "learning_rate": 1e-3, "warmup_steps": 100, "log_every": 1, "save_every": 100}
SMOOTHING = 50  # steps of the running mean in curves and in the table
TIMESTEPS = range(25, 1000, 50)  # noise levels of the validation
UNSEEN = 24  # validation clips at each of them


class Arm(NamedTuple):
    """One way of training: what it changes in the recipe and, once made, in the model."""

    name: str
    recipe: dict[str, Any] = {}
    transformer: dict[str, Any] = {}
    change: Callable[[CogVideoXTransformer3D], None] | None = None


class Result(NamedTuple):
    """Training losses step by step, the loss on unseen clips at the end, and how many parameters there were."""

    losses: list[float]
    validation: float
    parameters: int


def main() -> int:
    options = _options()
    with tempfile.TemporaryDirectory(prefix="cogvideox-ablations-") as temporary:
        folder = options.folder or Path(temporary)
        results = {arm.name: [_run(arm, seed, options.steps, folder) for seed in range(options.seeds)] for arm in ARMS}
    _draw(results, options.output.with_suffix(".png"))
    table = _table(results, options.steps)
    print(table)
    options.output.with_suffix(".md").write_text(HEAD + table + "\n", encoding="utf-8")
    return 0


def _share_modulation(transformer: CogVideoXTransformer3D) -> None:
    """One adaLN for both modalities: text gets the shift, scale and gate that video gets."""
    for module in transformer.modules():
        if isinstance(module, ExpertLayerNorm):
            linear = Linear(module.linear.in_features, module.linear.out_features // 2)
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
            module.linear = _Twice(linear)


class _Twice(nn.Module):
    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, temb: Tensor) -> Tensor:
        modulation = self.linear(temb)
        return torch.cat([modulation, modulation], dim=-1)


ARMS = (
    Arm("the paper's: explicit uniform, rotary, expert adaLN"),
    Arm("independent timesteps", recipe={"timesteps": "independent"}),
    Arm("sincos positions", transformer={"use_rotary_positional_embeddings": False}),
    Arm("shared adaLN", change=_share_modulation),
)


def _run(arm: Arm, seed: int, steps: int, folder: Path) -> Result:
    values = RECIPE | arm.recipe | {"optimisation": OPTIMISATION | {"steps": steps, "seed": seed}}
    values["transformer"] = RECIPE["transformer"] | arm.transformer
    run_folder = folder / f"{arm.name.split()[0]}-{seed}-{steps}"
    done = run_folder / "result.json"
    if done.is_file():
        return Result(**json.loads(done.read_text()))
    recipe = parse_recipe(values)
    objective = make_objective(recipe, WorldClips(), Folders(DEMO_MODEL, folder / "latents", run_folder))
    assert isinstance(objective, DiffusionObjective)
    if arm.change:
        arm.change(objective.transformer)
    objective.write = lambda _: None
    train(objective, recipe.optimisation, RunFolder(run_folder, values, resume=True), Accelerator(cpu=True))
    losses = [json.loads(line)["loss"] for line in (run_folder / "log.jsonl").read_text().splitlines()]
    parameters = sum(parameter.numel() for parameter in objective.transformer.parameters())
    result = Result(losses, _validate(objective), parameters)
    done.write_text(json.dumps(result._asdict()))
    return result


@torch.no_grad()
def _validate(objective: DiffusionObjective) -> float:
    """The mean loss over unseen clips at all noise levels, the same clips and noise for every run."""
    scenes = [make_scene(seed, held_out=True) for seed in range(UNSEEN)]
    vae = load_vae(DEMO_MODEL, dtype=torch.float32)
    bucket = RECIPE["buckets"][0]
    size = bucket["num_frames"], bucket["height"], bucket["width"]
    latents = vae.encode(torch.stack([render(scene, *size) for scene in scenes]) * 2 - 1).mean * objective.clips.scale
    tokens = objective.text.tokenize([prompt_of(scene) for scene in scenes], RECIPE["text_tokens"])
    losses = []
    for timestep in TIMESTEPS:
        noise = torch.randn(latents.shape, generator=seeded_generator(timestep))
        alpha = objective.schedule.alpha(timestep)
        noisy = alpha**0.5 * latents + (1 - alpha) ** 0.5 * noise
        target = alpha**0.5 * noise - (1 - alpha) ** 0.5 * latents
        nothing_asked = torch.empty(UNSEEN, 0, 0, dtype=torch.int8)
        group = Group(noisy, tokens, torch.full((UNSEEN,), timestep), target, nothing_asked)
        losses.append(objective([group])["loss"].item())
    return statistics.fmean(losses)


# --- What came out -----------------------------------------------------------------------------------------------


def _running_mean(losses: Sequence[float]) -> Tensor:
    return torch.tensor(losses).unfold(0, SMOOTHING, 1).mean(dim=1)


def _scatter(losses: Sequence[float]) -> float:
    """Variance of the smoothed loss about a straight line, over the second half of a run."""
    smooth = _running_mean(losses)[-len(losses) // 2 :]
    time = torch.linspace(-1, 1, len(smooth))
    line = torch.stack([torch.ones_like(time), time], dim=1)
    fit = line @ torch.linalg.lstsq(line, smooth[:, None]).solution
    return (smooth - fit[:, 0]).square().mean().item()


def _noise(losses: Sequence[float]) -> float:
    """Variance of a step's loss about that of its neighbours, over the second half of a run: half that of differences,
    so that no drift counts."""
    steps = torch.tensor(losses[len(losses) // 2 :])
    return steps.diff().square().mean().item() / 2


def _table(results: dict[str, list[Result]], steps: int) -> str:
    lines = [
        f"| {steps} steps, {len(next(iter(results.values())))} seeds | parameters | loss on unseen clips | "
        f"last {SMOOTHING} training losses | variance of the smoothed loss | variance from step to step |",
        "|---|---|---|---|---|---|",
    ]
    for name, runs in results.items():
        unseen = _spread([run.validation for run in runs])
        last = _spread([statistics.fmean(run.losses[-SMOOTHING:]) for run in runs])
        scatter = statistics.fmean(_scatter(run.losses) for run in runs)
        noise = statistics.fmean(_noise(run.losses) for run in runs)
        lines.append(f"| {name} | {runs[0].parameters:,} | {unseen} | {last} | {scatter:.2e} | {noise:.2e} |")
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> str:
    """Mean, and how far single runs lie from it."""
    mean = statistics.fmean(values)
    return f"{mean:.4f} ± {max(abs(value - mean) for value in values):.4f}"


def _draw(results: dict[str, list[Result]], path: Path) -> None:
    import matplotlib  # pyright: ignore[reportMissingImports]

    matplotlib.use("Agg")
    from matplotlib import pyplot  # pyright: ignore[reportMissingImports]

    base, *others = results
    figure, axes = pyplot.subplots(1, len(others), figsize=(5 * len(others), 4), sharey=True, layout="constrained")
    for axis, other in zip(axes, others, strict=True):
        for name, colour in ((base, "tab:blue"), (other, "tab:orange")):
            for index, run in enumerate(results[name]):
                smooth = _running_mean(run.losses)
                axis.plot(range(SMOOTHING, SMOOTHING + len(smooth)), smooth, colour, label=None if index else name)
        axis.set(xlabel="step", yscale="log", title=other)
        axis.legend()
    axes[0].set_ylabel(f"training loss, mean over {SMOOTHING} steps")
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


HEAD = """# The paper's ablations on the small world

Written by `python benchmarks/ablations.py`. One small transformer, trained with one thing changed at a time; "±" is the
distance of a single seed from the mean.

![Training losses](ablations.png)

"""


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600, help="of each run")
    parser.add_argument("--seeds", type=int, default=2, help="runs of each kind")
    parser.add_argument("--folder", type=Path, help="keeps clips and runs, to go on after an interruption")
    parser.add_argument("--output", type=Path, default=REPORT, help="without its ending")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
