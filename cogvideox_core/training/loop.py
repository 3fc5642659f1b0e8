"""The training loop every stage shares: accumulate, clip, step, average, log, save, resume."""

from __future__ import annotations

import math
import random
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from .run_folder import RunFolder


@dataclass(frozen=True)
class Optimisation:
    """How a run steps.

    `batch_size` counts clips of one optimizer step over all processes and accumulation steps. `learning_rate` and
    `betas` are AdamW's. Where `muon_learning_rate` is given, the matrices inside blocks are Muon's (PyTorch 2.9 and
    later), which needs fewer steps.
    """

    steps: int
    batch_size: int
    learning_rate: float
    muon_learning_rate: float | None = None
    accumulation: int = 1
    warmup_steps: int = 100
    schedule: str = "cosine"
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 1e-4
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    seed: int = 0
    log_every: int = 10
    save_every: int = 200


class Objective(nn.Module):
    """What a stage trains, and on what. Subclasses hold the modules, draw the clips and compute the loss."""

    def batch(self, step: int, slots: range, batch_size: int) -> Any:
        """The clips of `slots`, which are places in the global batch of `batch_size`, on the CPU or a device."""
        raise NotImplementedError

    def forward(self, batch: Any) -> dict[str, Tensor]:
        """Means over the batch: "loss", and what else is worth a column in the log."""
        raise NotImplementedError

    def export(self, folder: Path) -> None:
        """Write the modules as they are, in the official layout."""
        raise NotImplementedError

    def compile_blocks(self) -> None:
        """torch.compile what repeats, where that is worth it."""


def chance(*place: int) -> random.Random:
    """The randomness of one place of a run: (seed, step, slot), or more."""
    return random.Random(" ".join(map(str, place)))


def noise_generator(*place: int) -> torch.Generator:
    """The same, for tensors."""
    return torch.Generator().manual_seed(chance(*place).getrandbits(62))


def train(objective: Objective, plan: Optimisation, run: RunFolder, accelerator: Any) -> None:
    """Train `objective`; returns at the last step, with the state and the averaged model saved.

    Args: accelerator: accelerate's; its number of processes times `plan.accumulation` divides the batch size.
    Raises: ValueError if it does not; FloatingPointError if the loss is not finite.
    """
    trainer = _Trainer(objective, plan, run, accelerator)
    recent: list[dict[str, float]] = []
    steps = range(trainer.restore(), plan.steps)
    for step in tqdm(steps, "training", plan.steps, initial=steps.start, unit="step", disable=not run.writer):
        recent.append(trainer.step(step))
        done = step + 1
        if done % plan.log_every == 0 or done == plan.steps:
            trainer.log(done, recent)
            recent.clear()
        if done % plan.save_every == 0 or done == plan.steps:
            trainer.save(done)


class _Trainer:
    """An objective with everything that has to be saved beside it."""

    def __init__(self, objective: Objective, plan: Optimisation, run: RunFolder, accelerator: Any) -> None:
        from diffusers.optimization import get_scheduler
        from diffusers.training_utils import EMAModel

        self.plan, self.run, self.accelerator = plan, run, accelerator
        self.parts = slots_of_process(plan, accelerator.process_index, accelerator.num_processes)
        self.objective = objective.to(accelerator.device)
        self.trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]
        optimizers = make_optimizers(objective, plan)
        self.schedulers = [
            get_scheduler(plan.schedule, optimizer, num_warmup_steps=plan.warmup_steps, num_training_steps=plan.steps)
            for optimizer in optimizers
        ]
        self.average = EMAModel(self.trained, decay=plan.ema_decay)
        self.saved: dict[str, Any] = {"average": self.average}
        for index, parts in enumerate(zip(optimizers, self.schedulers, strict=True)):
            self.saved |= dict(zip((f"optimizer {index}", f"scheduler {index}"), parts, strict=True))
        self.wrapped, *self.optimizers = accelerator.prepare(objective, *optimizers)
        self.seconds, self.started = 0.0, time.monotonic()

    def restore(self) -> int:
        """Take up the run's last save. Returns: the steps it has done."""
        state = self.run.load_state()
        if state is None:
            return 0
        self.objective.load_state_dict(state["objective"])
        for name, part in self.saved.items():
            part.load_state_dict(state[name])
        self.average.to(self.accelerator.device)
        self.seconds = state["seconds"]
        return state["step"]

    def step(self, step: int) -> dict[str, float]:
        """One optimizer step. Returns: the mean losses of the global batch."""
        totals: dict[str, float] = {}
        for index, slots in enumerate(self.parts):
            last = index == len(self.parts) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.wrapped):
                losses = self.wrapped(self.objective.batch(step, slots, self.plan.batch_size))
                self.accelerator.backward(losses["loss"] / len(self.parts))
            for name, value in losses.items():
                mean = self.accelerator.reduce(value.detach(), "mean").item()
                totals[name] = totals.get(name, 0.0) + mean / len(self.parts)
        if not math.isfinite(totals["loss"]):
            raise FloatingPointError(f"step {step + 1}: the loss is {totals['loss']}; lower the learning rate")
        totals["norm"] = float(self.accelerator.clip_grad_norm_(self.trained, self.plan.clip_norm))
        for optimizer, scheduler in zip(self.optimizers, self.schedulers, strict=True):
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        self.average.step(self.trained)
        return totals

    def log(self, done: int, recent: list[dict[str, float]]) -> None:
        """A line with the means over `recent` steps."""
        means = {name: round(fmean(losses[name] for losses in recent), 6) for name in recent[0]}
        rate = self.schedulers[-1].get_last_lr()[0]
        self.run.log({"step": done, **means, "lr": rate, "seconds": round(self._elapsed(), 1)})

    def save(self, done: int) -> None:
        """The state to resume from, and the averaged model in the official layout."""
        if not self.run.writer:
            return
        parts = {name: part.state_dict() for name, part in self.saved.items()}
        state = {"step": done, "seconds": self._elapsed(), "objective": self.objective.state_dict(), **parts}
        self.run.save_state(state)
        self.average.store(self.trained)
        self.average.copy_to(self.trained)
        self.objective.export(self.run.model)
        self.average.restore(self.trained)

    def _elapsed(self) -> float:
        return self.seconds + time.monotonic() - self.started


def make_optimizers(objective: nn.Module, plan: Optimisation) -> list[torch.optim.Optimizer]:
    """AdamW for all that is trained; or Muon for the matrices inside blocks, then AdamW for the rest.

    Raises: ValueError if Muon is asked for and this PyTorch has none.
    """
    named = [(name, parameter) for name, parameter in objective.named_parameters() if parameter.requires_grad]
    matrices = [parameter for name, parameter in named if plan.muon_learning_rate and _is_hidden(name, parameter)]
    others = [parameter for _, parameter in named if not any(parameter is matrix for matrix in matrices)]
    adam = torch.optim.AdamW(others, plan.learning_rate, plan.betas, weight_decay=plan.weight_decay)
    if plan.muon_learning_rate is None:
        return [adam]
    if not hasattr(torch.optim, "Muon"):
        raise ValueError(
            f"muon_learning_rate with PyTorch {torch.__version__}, which has no Muon; install 2.9 or leave it out"
        )
    options = {"weight_decay": plan.weight_decay, "adjust_lr_fn": "match_rms_adamw"}
    return [torch.optim.Muon(matrices, plan.muon_learning_rate, **options), adam]


def _is_hidden(name: str, parameter: nn.Parameter) -> bool:
    """Whether it is a matrix from tokens to tokens: in a block, and neither a modulation nor a table."""
    return parameter.ndim == 2 and "block" in name and not any(part in name for part in ("norm", "bias"))


def slots_of_process(plan: Optimisation, process: int, processes: int) -> list[range]:
    """The places of the global batch this process works on, one range per accumulation step.

    Raises: ValueError if processes times accumulation do not divide the batch.
    """
    shares = processes * plan.accumulation
    if plan.batch_size % shares:
        raise ValueError(
            f"a batch of {plan.batch_size} clips does not divide over {processes} processes x {plan.accumulation} "
            "accumulation steps"
        )
    size = plan.batch_size // shares
    starts = [(index * processes + process) * size for index in range(plan.accumulation)]
    return [range(start, start + size) for start in starts]
