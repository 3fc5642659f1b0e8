"""What the tests of training share: small recipes, and runs of the command in processes of their own."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from cogvideox_core.training.demo_world.clips import WorldClips
from cogvideox_core.training.diffusion import DiffusionObjective
from cogvideox_core.training.recipe import parse_recipe
from cogvideox_core.training.stages import Places, make_objective

OPTIMISATION = {"steps": 4, "batch_size": 4, "learning_rate": 1e-3, "warmup_steps": 1, "log_every": 1, "save_every": 2}
DIFFUSION = {
    "stage": "diffusion",
    "variant": "CogVideoX-5B",
    "text_tokens": 24,
    "train_text_encoder": True,
    "questions": {"after_block": 1, "weight": 0.1},
    "buckets": [
        {"num_frames": 9, "height": 32, "width": 48, "count": 4, "share": 0.5},
        {"num_frames": 1, "height": 48, "width": 48, "count": 4, "first": 10, "share": 0.5},
    ],
    "optimisation": OPTIMISATION | {"muon_learning_rate": 1e-3},
}
AUTOENCODER = {
    "stage": "autoencoder",
    "phases": [
        {"until": 2, "num_frames": 9, "height": 16, "width": 16},
        {"until": 4, "num_frames": 17, "height": 32, "width": 24},
    ],
    "optimisation": OPTIMISATION,
}


def command(recipe: Path, folder: Path, model: Path, *options: str, processes: int = 1) -> list[str]:
    launch = [sys.executable]
    if processes > 1:
        launch += ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", str(processes)]
        launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
        launch += ["--main_process_port", str(random.randint(20000, 40000))]
    module = ["-m", "cogvideox_core.training", str(recipe), str(folder), "--model", str(model), "--cpu", *options]
    return [*launch, *module]


def train(recipe: dict[str, Any], folder: Path, model: Path, *options: str, processes: int = 1) -> None:
    path = folder.with_suffix(".json")
    path.write_text(json.dumps(recipe))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command(path, folder, model, *options, processes=processes), capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


def weights(folder: Path) -> dict[str, Tensor]:
    files = sorted((folder / "model").rglob("*.safetensors"))
    assert files
    return {f"{file.parent.name}.{name}": tensor for file in files for name, tensor in load_file(file).items()}


def objective_of(recipe: dict[str, Any], model: Path, folder: Path) -> DiffusionObjective:
    made = make_objective(parse_recipe(recipe), WorldClips(), Places(model, folder / "latents", folder))
    assert isinstance(made, DiffusionObjective)
    return made
