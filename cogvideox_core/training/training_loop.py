"""The training loop of every stage: accumulate, clip, step, average, log, save, resume."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from statistics import fmean
from typing import Any

from tqdm import tqdm

from .objective import Objective
from .optimizers import make_optimizers
from .recipe import Optimisation
from .run_folder import RunFolder

Losses = dict[str, float]
"""By their names: "loss", and what else an objective computes."""


def train(objective: Objective, settings: Optimisation, run: RunFolder, accelerator: Any) -> None:
    """Train `objective`; returns after the last step, with the state and the averaged model saved.

    Args: accelerator: accelerate's; its number of processes times `settings.accumulation` divides the batch size.
    Raises: ValueError if it does not; FloatingPointError if the loss is not finite.
    """
    trainer = _Trainer(objective, settings, run, accelerator)
    steps = range(trainer.restore(), settings.steps)
    for step in tqdm(steps, "training", settings.steps, initial=steps.start, unit="step", disable=not run.writer):
        trainer.step(step)
        done = step + 1
        if done % settings.log_every == 0 or done == settings.steps:
            trainer.log(done)
        if done % settings.save_every == 0 or done == settings.steps:
            trainer.save(done)


class _Trainer:
    """An objective with everything that is saved with it: optimizers, learning rates, averaged weights."""

    def __init__(self, objective: Objective, settings: Optimisation, run: RunFolder, accelerator: Any) -> None:
        from diffusers.optimization import get_scheduler
        from diffusers.training_utils import EMAModel

        self.settings = settings
        self.run = run
        self.accelerator = accelerator
        self.parts = slots_of_process(settings, accelerator.process_index, accelerator.num_processes)
        self.objective = objective.to(accelerator.device)
        self.trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]
        optimizers = make_optimizers(objective, settings)
        warmup, steps = settings.warmup_steps, settings.steps
        self.schedulers = [
            get_scheduler(settings.schedule, optimizer, num_warmup_steps=warmup, num_training_steps=steps)
            for optimizer in optimizers
        ]
        self.average = EMAModel(self.trained, decay=settings.ema_decay)
        self.saved: dict[str, Any] = {"average": self.average}
        for index, (optimizer, scheduler) in enumerate(zip(optimizers, self.schedulers, strict=True)):
            self.saved |= {f"optimizer {index}": optimizer, f"scheduler {index}": scheduler}
        self.wrapped, *self.optimizers = accelerator.prepare(objective, *optimizers)
        self.recent: list[Losses] = []  # of the steps since the last line of the log
        self.seconds = 0.0  # of training before this process
        self.started = time.monotonic()

    def restore(self) -> int:
        """Load the last save of the training run. Returns: how many steps it has done."""
        state = self.run.load_state()
        if state is None:
            return 0
        self.objective.load_state_dict(state["objective"])
        for name, part in self.saved.items():
            part.load_state_dict(state[name])
        self.average.to(self.accelerator.device)
        self.recent = state.get("recent", [])  # older states have none
        self.seconds = state["seconds"]
        return state["step"]

    def step(self, step: int) -> None:
        """One optimizer step. Its losses, means over the global batch, and the norm of its gradients become recent."""
        losses: Losses = {}
        for index, slots in enumerate(self.parts):
            is_last = index == len(self.parts) - 1
            with nullcontext() if is_last else self.accelerator.no_sync(self.wrapped):
                for name, share in self._backward(step, slots).items():
                    losses[name] = losses.get(name, 0.0) + share
        if not math.isfinite(losses["loss"]):
            raise FloatingPointError(f"step {step + 1}: the loss is {losses['loss']}; lower the learning rate")
        losses["norm"] = float(self.accelerator.clip_grad_norm_(self.trained, self.settings.clip_norm))
        for optimizer, scheduler in zip(self.optimizers, self.schedulers, strict=True):
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        self.average.step(self.trained)
        self.recent.append(losses)

    def _backward(self, step: int, slots: range) -> Losses:
        """The backward pass of one accumulation step. Returns: what it adds to the mean losses of the global batch."""
        losses = self.wrapped(self.objective.batch(step, slots, self.settings.batch_size))
        self.accelerator.backward(losses["loss"] / len(self.parts))
        means = {name: self.accelerator.reduce(value.detach(), "mean").item() for name, value in losses.items()}
        return {name: mean / len(self.parts) for name, mean in means.items()}

    def log(self, done: int) -> None:
        """A line with the means over the recent steps."""
        means = {name: _mean(name, self.recent) for name in self.recent[0]}
        rate = self.schedulers[-1].get_last_lr()[0]
        self.run.log({"step": done, **means, "lr": rate, "seconds": round(self._elapsed(), 1)})
        self.recent.clear()

    def save(self, done: int) -> None:
        """The state to resume from, and the averaged model in the official layout."""
        if not self.run.writer:
            return
        parts = {name: part.state_dict() for name, part in self.saved.items()}
        own = {"step": done, "seconds": self._elapsed(), "recent": self.recent}
        state = {**own, "objective": self.objective.state_dict(), **parts}
        self.run.save_state(state)
        self.average.store(self.trained)
        self.average.copy_to(self.trained)
        self.objective.export(self.run.model)
        self.average.restore(self.trained)

    def _elapsed(self) -> float:
        return self.seconds + time.monotonic() - self.started


def _mean(name: str, recent: Sequence[Losses]) -> float:
    return round(fmean(losses[name] for losses in recent), 6)


def slots_of_process(settings: Optimisation, process: int, processes: int) -> list[range]:
    """The indices of the global batch that this process works on, one range per accumulation step.

    Raises: ValueError if processes times accumulation do not divide the batch.
    """
    shares = processes * settings.accumulation
    if settings.batch_size % shares:
        raise ValueError(
            f"a batch of {settings.batch_size} clips does not divide over {processes} processes x "
            f"{settings.accumulation} accumulation steps; make it a multiple of {shares}"
        )
    size = settings.batch_size // shares
    starts = [(index * processes + process) * size for index in range(settings.accumulation)]
    return [range(start, start + size) for start in starts]
