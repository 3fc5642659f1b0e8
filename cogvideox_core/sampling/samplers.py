"""The official step rules: DDIM, and DPM-Solver++ 2M as a stochastic differential equation.

A sampler is made anew for every run. It is asked for the next latents with the network's v; where noise comes from is
the caller's business (`draw`), so that a host can bring its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from .noise_schedule import Step, predict_x0

Draw = Callable[[Tensor], Tensor]
"""Standard normal noise like the given latents [B, C, T, H, W]."""


class Sampler(Protocol):
    """One run's step rule."""

    x0_pred: Tensor | None

    def step(self, latents: Tensor, v_pred: Tensor, step: Step) -> Tensor:
        """Latents at `step.previous`, given latents and v at `step.timestep`; all [B, C, T, H, W], float32."""
        ...


class DDIM:
    """Deterministic DDIM (arXiv 2010.02502), in the form of diffusers `CogVideoXDDIMScheduler`."""

    def __init__(self, draw: Draw) -> None:
        self.x0_pred: Tensor | None = None

    def step(self, latents: Tensor, v_pred: Tensor, step: Step) -> Tensor:
        self.x0_pred = predict_x0(latents, v_pred, step.alpha)
        keep = math.sqrt((1 - step.alpha_previous) / (1 - step.alpha))
        return keep * latents + (math.sqrt(step.alpha_previous) - math.sqrt(step.alpha) * keep) * self.x0_pred


class DPMSolverPP2MSDE:
    """DPM-Solver++ 2M SDE (arXiv 2211.01095), in the form of diffusers `CogVideoXDPMScheduler`.

    Where the log-SNR is infinite (the first timestep, and the end) the limits are taken. The reference draws noise
    twice on a second-order step and uses the second; so do we, for the same video from the same seed.
    """

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self.x0_pred: Tensor | None = None

    def step(self, latents: Tensor, v_pred: Tensor, step: Step) -> Tensor:
        x0_old = self.x0_pred
        self.x0_pred = x0 = predict_x0(latents, v_pred, step.alpha)
        noise = self.draw(latents)
        if step.previous < 0:
            return x0
        if x0_old is not None:
            noise = self.draw(latents)
            x0 = self._extrapolate(x0, x0_old, step)
        decay = _log_snr_ratio(step.alpha, step.alpha_previous)  # exp(-h), 0 where h is infinite
        return (
            math.sqrt((1 - step.alpha_previous) / (1 - step.alpha)) * decay * latents
            + (1 - decay**2) * math.sqrt(step.alpha_previous) * x0
            + math.sqrt((1 - step.alpha_previous) * (1 - decay**2)) * noise
        )

    @staticmethod
    def _extrapolate(x0: Tensor, x0_old: Tensor, step: Step) -> Tensor:
        """Second-order estimate of x0 from this and the last one; the last has no say after an infinite step."""
        assert step.alpha_back is not None
        ratio_back = _log_snr_ratio(step.alpha_back, step.alpha)
        if ratio_back == 0.0:
            return x0
        h = -math.log(_log_snr_ratio(step.alpha, step.alpha_previous))
        half_ratio = h / (-math.log(ratio_back)) / 2  # 1 / (2 r)
        return (1 + half_ratio) * x0 - half_ratio * x0_old


SAMPLERS: dict[str, Callable[[Draw], Sampler]] = {"ddim": DDIM, "dpm": DPMSolverPP2MSDE}


def make_sampler(name: str, draw: Draw) -> Sampler:
    """A fresh sampler. Raises: ValueError for an unknown name."""
    if name not in SAMPLERS:
        raise ValueError(f"sampler={name!r}; there are {', '.join(map(repr, SAMPLERS))}")
    return SAMPLERS[name](draw)


def check_finite(latents: Tensor, step: Step, dtype: torch.dtype, model: nn.Module | None = None) -> None:
    """Raises: FloatingPointError if latents hold NaN or infinity: which weight does, or else step and likely cause.

    Args: model: whose weights are looked through then; a file may be damaged.
    """
    if not torch.isfinite(latents).all():
        raise not_finite(f"latents became NaN or infinite at timestep {step.timestep}", dtype, model)


def not_finite(what: str, dtype: torch.dtype, model: nn.Module | None = None) -> FloatingPointError:
    """The error about numbers that are not finite, with their likely cause.

    Args:
        what: what was found, as the sentence begins.
        dtype: in which the model computes.
        model: as in `check_finite`.
    """
    if isinstance(model, nn.Module) and (key := _unfinite_weight(model)):
        return FloatingPointError(
            f"{what}, and so are numbers in the model's own weights: {key} is damaged in its file; download it again"
        )
    if dtype == torch.float16:
        return FloatingPointError(
            f"{what}; the likely cause is the model's dtype float16: the 5B and 1.5 models need bfloat16 or float32"
        )
    return FloatingPointError(
        f"{what}, though {str(dtype).removeprefix('torch.')} suits every model; take away sage attention, LoRAs and "
        "what else changes the model, one after the other, and run again"
    )


def _unfinite_weight(model: nn.Module) -> str | None:
    for key, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not tensor.is_meta and not (tensor + 0).isfinite().all():  # + 0 decodes it
            return key
    return None


def _log_snr_ratio(alpha: float, alpha_next: float) -> float:
    """exp(lambda - lambda_next) with lambda = log sqrt(a / (1 - a)); 0 where the step is infinite."""
    return math.sqrt(alpha / (1 - alpha) * (1 - alpha_next) / alpha_next)
