"""What the tests of training share: small recipes, and training runs by the command."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from cogvideox_core.training.__main__ import main
from cogvideox_core.training.demo_world.world_clips import WorldClips
from cogvideox_core.training.diffusion_objective import DiffusionObjective
from cogvideox_core.training.recipe import parse_recipe
from cogvideox_core.training.stages import Folders, make_objective
from tests.provision import REPO
from tests.support.threads import one_thread


def muon(learning_rate: float) -> dict[str, float]:
    """The field that asks for Muon, where PyTorch has it: 2.9 and later."""
    return {"muon_learning_rate": learning_rate} if hasattr(torch.optim, "Muon") else {}


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
    "optimisation": OPTIMISATION | muon(1e-3),
}
LORA = {name: value for name, value in DIFFUSION.items() if name not in ("questions", "train_text_encoder")} | {
    "lora": {"rank": 3},
    "optimisation": OPTIMISATION,
}
LORA_FILE = "pytorch_lora_weights.safetensors"
AUTOENCODER = {
    "stage": "autoencoder",
    "phases": [
        {"until": 2, "num_frames": 9, "height": 16, "width": 16},
        {"until": 4, "num_frames": 17, "height": 32, "width": 24},
    ],
    "optimisation": OPTIMISATION,
}
TEXT = {
    "stage": "text",
    "text_encoder": {"vocab_size": 400, "d_model": 48, "d_kv": 16, "num_heads": 3, "d_ff": 64, "num_layers": 2},
    "text_tokens": [24, 40],
    "optimisation": OPTIMISATION | {"batch_size": 48, "learning_rate": 5e-3} | muon(1e-2),
}


def arguments(recipe: Path, folder: Path, model: Path, *options: str) -> list[str]:
    """What follows `python -m cogvideox_core.training`."""
    return [str(recipe), str(folder), "--model", str(model), "--cpu", *options]


def train(recipe: dict[str, Any], folder: Path, model: Path, *options: str) -> None:
    """A training run in this process, with one thread."""
    path = folder.with_suffix(".json")
    path.write_text(json.dumps(recipe))
    with one_thread():
        assert main(arguments(path, folder, model, *options)) == 0


def start(recipe: dict[str, Any], folder: Path, model: Path, *options: str, processes: int = 1) -> subprocess.Popen:
    """A training run in processes of its own."""
    path = folder.with_suffix(".json")
    path.write_text(json.dumps(recipe))
    launch = [sys.executable]
    if processes > 1:
        launch += ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", str(processes)]
        launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
        launch += ["--main_process_port", str(random.randint(20000, 40000))]
    command = [*launch, "-m", "cogvideox_core.training", *arguments(path, folder, model, *options)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


KILLED_AT_ITS_FIRST_SAVE = """
import os, signal, sys
from cogvideox_core.training.__main__ import main
from cogvideox_core.training.run_folder import RunFolder

save = RunFolder.save_state

def save_and_die(run, state):
    save(run, state)
    os.kill(os.getpid(), signal.SIGKILL)

RunFolder.save_state = save_and_die
main(sys.argv[1:])
"""


def killed(recipe: dict[str, Any], folder: Path, model: Path, *options: str) -> int:
    """The return code of a training run in a process of its own, which is killed right after its first save."""
    path = folder.with_suffix(".json")
    path.write_text(json.dumps(recipe))
    command = [sys.executable, "-c", KILLED_AT_ITS_FIRST_SAVE, *arguments(path, folder, model, *options)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)}
    return subprocess.run(command, env=environment, capture_output=True, text=True).returncode


def log(folder: Path) -> list[dict[str, float]]:
    """The lines of a training run's log."""
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in log(folder)]


def weights(folder: Path) -> dict[str, Tensor]:
    """All weights of the trained model, by folder and name."""
    files = sorted((folder / "model").rglob("*.safetensors"))
    assert files
    found = {}
    for file in files:
        found |= {f"{file.parent.name}.{name}": tensor for name, tensor in load_file(file).items()}
    return found


def objective_of(recipe: dict[str, Any], model: Path, folder: Path) -> DiffusionObjective:
    """The objective of a diffusion stage on clips of the demo world."""
    made = make_objective(parse_recipe(recipe), WorldClips(), Folders(model, folder / "latents", folder))
    assert isinstance(made, DiffusionObjective)
    return made
