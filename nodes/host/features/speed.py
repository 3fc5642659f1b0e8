"""The core's approximations on a MODEL, under any of ComfyUI's samplers.

State belongs to one sampling alone: a wrapper around it puts the state into the guider's options and takes it out
again, whatever ends the sampling. What is predicted is what guiders ask for, the answer to both conditionings, so it
makes no difference how ComfyUI batches them, and what patches add to single calls stays exact.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.model_patcher
import comfy.samplers
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ....cogvideox_core.sampling.approximation import ApproximateRun, Approximation, approximate
from ..types.model import CogVideoXModel, cogvideox_model
from ..types.sampling_call import SamplingCall, by_name

_KEY = "cogvideox_speed"
_ASK = "sampler_calc_cond_batch_function"  # where ComfyUI's guiders look for who answers


def install() -> None:
    """Nothing is added to ComfyUI: the node asks `accelerate` when it runs."""


def accelerate(patcher: Any, approximation: Approximation) -> Any:
    """A clone of a MODEL that samples under `approximation`, in place of any it had.

    Raises: ValueError if it is not our MODEL, or for options that do not fit.
    """
    approximation.check()
    cogvideox_model(patcher)
    clone = patcher.clone()
    clone.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, _KEY)
    if not approximation.exact:
        clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, _KEY, _approximated(approximation))
    return clone


def _approximated(approximation: Approximation) -> Any:
    """An OUTER_SAMPLE wrapper: each sampling gets answers of its own."""

    @by_name
    def sample(executor: Any, call: SamplingCall) -> Tensor:
        guider = executor.class_obj
        options = guider.model_options
        answers = _Answers(approximation, call.sigmas, guider.cfg, options.get(_ASK, _ask_model))
        guider.model_options = {**comfy.model_patcher.create_model_options_clone(options), _ASK: answers}
        try:
            samples = call.run(executor)
        finally:
            guider.model_options = options
        answers.report()
        return samples

    return sample


class _Answers:
    """What a guider gets at each step of one sampling: x0 as the model computes it, or predicted.

    Args:
        sigmas: of the run.
        cfg: the guider's.
        ask: computes x0 of [positive, negative] from a guider's question.
    """

    def __init__(
        self, approximation: Approximation, sigmas: Tensor, cfg: float, ask: Callable[[dict[str, Any]], list[Tensor]]
    ) -> None:
        self.approximation = approximation
        self.sigmas = sigmas[:-1]
        self.cfg = cfg
        self.ask = ask
        self.runs: dict[bool, ApproximateRun] = {}  # by whether there is a negative conditioning

    def __call__(self, question: dict[str, Any]) -> list[Tensor]:
        model: CogVideoXModel = question["model"]
        positive, negative = question["conds"]
        sigma = float(question["sigma"].flatten()[0])
        guided = negative is not None
        if guided not in self.runs:
            self.runs[guided] = self._new_run(model, guided, question["input"])

        def compute(with_negative: bool) -> list[Tensor]:
            conds = [positive, negative if with_negative else None]
            return self.ask({**question, "conds": conds})[: 1 + (guided and with_negative)]

        alpha = 1 / (1 + sigma**2)
        x0s = self.runs[guided].predict(_timestep(model, sigma), question["input"] * alpha**0.5, alpha, compute)
        return x0s if guided else [*x0s, torch.zeros_like(x0s[0])]

    def report(self) -> None:
        for run in self.runs.values():
            run.report()

    def _new_run(self, model: CogVideoXModel, guided: bool, x: Tensor) -> ApproximateRun:
        timesteps = [_timestep(model, sigma) for sigma in self.sigmas.tolist()]
        like = x.new_empty(0, dtype=model.get_dtype_inference())
        return approximate(self.approximation, model.diffusion_model, timesteps, self.cfg if guided else None, like)


def _timestep(model: CogVideoXModel, sigma: float) -> int:
    return int(model.model_sampling.timestep(torch.tensor(sigma)))


def _ask_model(question: dict[str, Any]) -> list[Tensor]:
    names = ("model", "conds", "input", "sigma", "model_options")
    return comfy.samplers.calc_cond_batch(*(question[name] for name in names))
