"""The training loop: steps, averages, saves and resumes; a killed training run and many processes end the same."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor, nn

from cogvideox_core import load_transformer
from cogvideox_core.training.objective import Objective, seeded_generator
from cogvideox_core.training.recipe import Optimisation
from cogvideox_core.training.run_folder import RunFolder
from cogvideox_core.training.training_loop import slots_of_process, train
from tests.support import training_runs
from tests.support.training_runs import DIFFUSION, log, losses, weights


class Line(Objective):
    """Learns y = 3 x. `stops_at`: the step in which it is interrupted."""

    def __init__(self, stops_at: int | None = None, scale: float = 1.0) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(1))
        self.stops_at = stops_at
        self.scale = scale

    def batch(self, step: int, slots: range, batch_size: int) -> Tensor:
        if step == self.stops_at:
            raise KeyboardInterrupt
        return torch.cat([torch.rand(1, generator=seeded_generator(step, slot)) for slot in slots])

    def forward(self, batch: Tensor) -> dict[str, Tensor]:
        error = (self.slope - 3) * batch
        return {"loss": self.scale * error.square().mean(), "error": error.detach().mean()}

    def export(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        torch.save(self.slope.detach().clone(), folder / "slope.pt")


SETTINGS = {"steps": 12, "batch_size": 6, "learning_rate": 0.1, "warmup_steps": 2, "log_every": 3, "save_every": 4}


def run(folder: Path, objective: Objective, resume: bool = False, **changes: float) -> tuple[list, Tensor]:
    """Train. Returns: the log without its times, and the averaged slope."""
    settings = Optimisation(**{**SETTINGS, **changes})  # type: ignore[arg-type]
    train(objective, settings, RunFolder(folder, {}, resume=resume), Accelerator(cpu=True))
    lines = [{name: value for name, value in line.items() if name != "seconds"} for line in log(folder)]
    return lines, torch.load(folder / "model" / "slope.pt", weights_only=True)


# --- In one process ----------------------------------------------------------------------------------------------


def test_the_loss_falls_and_the_log_holds_means(tmp_path: Path) -> None:
    lines, _ = run(tmp_path / "run", Line())
    assert [line["step"] for line in lines] == [3, 6, 9, 12]
    assert lines[-1]["loss"] < 0.8 * lines[0]["loss"]
    assert list(lines[0]) == ["step", "loss", "error", "norm", "lr"]
    single, _ = run(tmp_path / "single", Line(), log_every=1)
    for name in ("loss", "error", "norm"):
        mean = sum(line[name] for line in single[:3]) / 3
        assert lines[0][name] == pytest.approx(mean, abs=2e-6)


def test_an_interrupted_training_run_resumes_as_if_it_had_not_been(tmp_path: Path) -> None:
    wanted, slope = run(tmp_path / "whole", Line())
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", Line(stops_at=7))
    assert log(tmp_path / "broken")[-1]["step"] == 6
    found, resumed = run(tmp_path / "broken", Line(), resume=True)
    assert found == wanted and torch.equal(resumed, slope)


def test_accumulation_changes_nothing_but_memory(tmp_path: Path) -> None:
    _, slope = run(tmp_path / "one", Line())
    _, accumulated = run(tmp_path / "three", Line(), accumulation=3)
    assert accumulated.item() == pytest.approx(slope.item(), rel=1e-5)


def test_the_exported_model_is_the_average_and_training_continues_with_its_own_weights(tmp_path: Path) -> None:
    objective = Line()
    _, average = run(tmp_path / "run", objective, ema_decay=0.9)
    assert 0 < average.item() < objective.slope.item(), "an average lags behind"


def test_gradients_are_clipped(tmp_path: Path) -> None:
    """AdamW does not see the size of gradients, but their sudden growth: so the moments of a clipped one are small."""
    run(tmp_path / "run", Line(scale=1e3), clip_norm=0.5)
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    (moments,) = state["optimizer 0"]["state"].values()
    assert log(tmp_path / "run")[0]["norm"] > 100 and moments["exp_avg"].abs().item() <= 0.5


def test_a_loss_that_is_not_finite_stops_the_training_run(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match="step 1: the loss is inf; lower the learning rate"):
        run(tmp_path / "run", Line(scale=float("inf")))


def test_slots_cover_the_batch_once() -> None:
    settings = Optimisation(steps=1, batch_size=24, learning_rate=1e-3, accumulation=3)
    slots: list[int] = []
    for process in range(4):
        for part in slots_of_process(settings, process, 4):
            slots += part
    assert sorted(slots) == list(range(24))
    with pytest.raises(ValueError, match="24 clips does not divide over 5 processes x 3 .* multiple of 15"):
        slots_of_process(settings, 0, 5)


def test_training_changes_what_it_should_and_nothing_else(toy: Path, trained: Path) -> None:
    before, after = load_file(toy / "vae" / "diffusion_pytorch_model.safetensors"), trained / "model"
    for name, tensor in load_file(after / "vae" / "diffusion_pytorch_model.safetensors").items():
        assert torch.equal(tensor, before[name]), name
    moved = load_transformer(after, dtype=torch.float32).state_dict()
    for name, tensor in load_transformer(toy, dtype=torch.float32).state_dict().items():
        assert not torch.equal(moved[name], tensor.half().float()), f"{name} has not moved"


# --- In processes of their own -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_killed_training_run_resumes_as_if_it_had_not_been(toy: Path, trained: Path, tmp_path: Path) -> None:
    folder, options = tmp_path / "killed", ("--latents", str(trained / "latents"))
    assert training_runs.killed(DIFFUSION, folder, toy, *options) == -signal.SIGKILL
    assert torch.load(folder / "state.pt", weights_only=True)["step"] == 2

    training_runs.train(DIFFUSION, folder, toy, *options, "--resume")
    assert losses(folder) == losses(trained)
    resumed, reference = weights(folder), weights(trained)
    assert resumed.keys() == reference.keys()
    for name, tensor in reference.items():
        assert torch.equal(resumed[name], tensor), name


@pytest.mark.slow
def test_two_processes_are_one(toy: Path, trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "two"
    process = training_runs.start(DIFFUSION, folder, toy, "--latents", str(trained / "latents"), processes=2)
    _, said = process.communicate()
    assert process.returncode == 0, said[-2000:]
    assert losses(folder) == pytest.approx(losses(trained), rel=1e-5)
    for name, tensor in weights(trained).items():
        assert (weights(folder)[name].float() - tensor.float()).abs().max() < 2e-3, name
