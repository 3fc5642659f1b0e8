"""The noise schedule of a MODEL in ComfyUI's form: the official one, and which others a node may put in its place."""

from __future__ import annotations

from typing import Any

import comfy.model_sampling
import torch
from torch import Tensor

from ....cogvideox_core.sampling.noise_schedule import NoiseSchedule
from .other_nodes import node_of

# The last a(t) is 0, which has no finite sigma; ComfyUI's own zero-SNR schedules put this in its place.
TERMINAL_ALPHA = 4.8973451890853435e-08

_FLOW = (
    comfy.model_sampling.CONST,
    comfy.model_sampling.COSMOS_RFLOW,
    comfy.model_sampling.IMG_TO_IMG_FLOW,
)
_LAST_TIMESTEP = 999


class CogVideoXModelSampling(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.V_PREDICTION):
    """The official a(t) table as ComfyUI's sigmas.

    Args: model_config: with the variant; other nodes make an instance of their own of it.
    """

    def __init__(self, model_config: Any) -> None:
        super().__init__()
        self.set_sigmas(official_table(NoiseSchedule(model_config.unet_config["variant"].schedule)))

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            raise AttributeError(
                f"CogVideoX's noise schedule has no {name!r}, which a node asked for and which flow models have: take "
                "that node out"
            ) from None


def official_table(schedule: NoiseSchedule) -> Tensor:
    """Sigma of each timestep, [1000] float64."""
    alphas = schedule.alphas_cumprod.clamp_min(TERMINAL_ALPHA)
    return ((1 - alphas) / alphas) ** 0.5


def is_official(sampling: Any, schedule: NoiseSchedule) -> bool:
    """Whether a `model_sampling` is the official one of `schedule`, untouched."""
    return isinstance(sampling, CogVideoXModelSampling) and torch.equal(
        sampling.sigmas.cpu(), official_table(schedule).float()
    )


def check_official(sampling: Any, schedule: NoiseSchedule, name: str) -> None:
    """Raises: ValueError if another node has replaced the schedule of the model `name`, which the caller follows."""
    if not is_official(sampling, schedule):
        raise ValueError(
            f"{_node(sampling)} replaced this MODEL's noise schedule; CogVideoX's sampler and scheduler follow the "
            f"official one of {name}: take that node out, or take KSampler or BasicScheduler"
        )


def check_sampling(sampling: Any, name: str) -> str:
    """A warning about sampling the model `name` under this `model_sampling`; empty if there is none.

    A model that predicts v can be sampled under any table of v over its timesteps. A table that reads the output as
    noise would fit a model that was fine-tuned to predict noise, so that is a warning and no error.

    Raises: ValueError if the schedule cannot sample the model.
    """
    node, fits = _node(sampling), f"{name} predicts v at timesteps 0 to {_LAST_TIMESTEP}"
    replaced = f"{node} replaced this MODEL's noise schedule with one"
    if isinstance(sampling, _FLOW):
        raise ValueError(f"{replaced} for flow models; {fits}: take that node out")
    reads = _read_as(sampling)
    if reads is None:
        raise ValueError(
            f"{replaced} that does not read the model's output as v; {fits}: set that node to v_prediction, or take it "
            "out"
        )
    lowest, highest = _timesteps(sampling)
    if lowest < 0 or not 1 < highest <= _LAST_TIMESTEP:
        raise ValueError(f"{replaced} that has timesteps {lowest:.3g} to {highest:.3g}; {fits}: take that node out")
    if reads == "noise":
        return (
            f"{node} reads the model's output as noise; {name} predicts v: set that node to v_prediction, or take it "
            "out"
        )
    return ""


def _node(sampling: Any) -> str:
    node = node_of(type(sampling))
    return "ModelSamplingSD3 or ModelSamplingAuraFlow" if node == "ModelSamplingSD3" else node  # they share a function


def _read_as(sampling: Any) -> str | None:
    """Whether x0 is computed from an output that is v or noise, given an input of variance 1; None for another way."""
    one, sigma = torch.ones(1, 1, 1, 1, 1), torch.ones(1)
    computed = (
        sampling.calculate_input(sigma, one),
        sampling.calculate_denoised(sigma, 0 * one, one),
        sampling.calculate_denoised(sigma, one, 0 * one),
    )
    at_sigma_one, root = torch.cat([value.flatten() for value in computed]), 0.5**0.5
    for reads, expected in {"v": (root, 0.5, -root), "noise": (root, 1.0, -1.0)}.items():
        if torch.allclose(at_sigma_one, torch.tensor(expected), atol=1e-5):
            return reads
    return None


def _timesteps(sampling: Any) -> tuple[float, float]:
    """The lowest and the highest timestep that is asked of the model."""
    ends = torch.tensor([float(sampling.sigma_min), float(sampling.sigma_max)])
    lowest, highest = sampling.timestep(ends).tolist()
    return lowest, highest
