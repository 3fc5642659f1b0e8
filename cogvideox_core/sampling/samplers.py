"""The official samplers: DDIM, and DPM-Solver++ 2M as a stochastic differential equation.

A sampler is made for one run. From latents and the predicted clean latents x0 of a timestep it computes the latents of
the next one. The caller provides the noise (`draw`), so that a host can bring its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from .noise_schedule import Step

Draw = Callable[[Tensor], Tensor]
"""Standard normal noise of the shape of the given latents [B, C, T, H, W]."""


class Sampler(Protocol):
    """The step rule of one run."""

    def step(self, latents: Tensor, x0: Tensor, step: Step) -> Tensor:
        """Latents at `step.previous`, from latents and predicted x0 at `step.timestep`; [B, C, T, H, W], float32."""
        ...


class DDIM:
    """Deterministic DDIM (arXiv 2010.02502), in the form of diffusers `CogVideoXDDIMScheduler`."""

    def __init__(self, draw: Draw) -> None:
        """`draw` is not used: DDIM adds no noise."""

    def step(self, latents: Tensor, x0: Tensor, step: Step) -> Tensor:
        """As `Sampler.step`; latents, x0 and result [B, C, T, H, W]."""
        keep = math.sqrt((1 - step.alpha_previous) / (1 - step.alpha))
        return keep * latents + (math.sqrt(step.alpha_previous) - math.sqrt(step.alpha) * keep) * x0


class DPMSolverPP2MSDE:
    """DPM-Solver++ 2M SDE (arXiv 2211.01095), in the form of diffusers `CogVideoXDPMScheduler`.

    Where the log-SNR is infinite (at the first timestep, and at the end) the limits are taken. The reference draws
    noise twice on a second-order step and uses the second draw; this does the same, so a seed gives the same video.

    Attributes:
        x0_before: x0 of the step before this one, [B, C, T, H, W]; None before the first step.
    """

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self.x0_before: Tensor | None = None

    def step(self, latents: Tensor, x0: Tensor, step: Step) -> Tensor:
        """As `Sampler.step`; latents, x0 and result [B, C, T, H, W]."""
        x0_before, self.x0_before = self.x0_before, x0
        noise = self.draw(latents)
        if step.previous < 0:
            return x0
        if x0_before is not None:
            noise = self.draw(latents)
            x0 = self._second_order(x0, x0_before, step)
        decay = _log_snr_ratio(step.alpha, step.alpha_previous)  # exp(-h), 0 where h is infinite
        return (
            math.sqrt((1 - step.alpha_previous) / (1 - step.alpha)) * decay * latents
            + (1 - decay**2) * math.sqrt(step.alpha_previous) * x0
            + math.sqrt((1 - step.alpha_previous) * (1 - decay**2)) * noise
        )

    @staticmethod
    def _second_order(x0: Tensor, x0_before: Tensor, step: Step) -> Tensor:
        """Second-order estimate of x0 from this step's and the last one's; after an infinite step, this one's alone."""
        assert step.alpha_back is not None
        ratio_back = _log_snr_ratio(step.alpha_back, step.alpha)
        if ratio_back == 0.0:
            return x0
        h = -math.log(_log_snr_ratio(step.alpha, step.alpha_previous))
        half_ratio = h / (-math.log(ratio_back)) / 2  # 1 / (2 r)
        return (1 + half_ratio) * x0 - half_ratio * x0_before


SAMPLERS: dict[str, Callable[[Draw], Sampler]] = {"ddim": DDIM, "dpm": DPMSolverPP2MSDE}


def make_sampler(name: str, draw: Draw) -> Sampler:
    """A sampler for one run. Raises: ValueError for an unknown name."""
    if name not in SAMPLERS:
        raise ValueError(f"sampler={name!r}; there are {', '.join(map(repr, SAMPLERS))}")
    return SAMPLERS[name](draw)


def _log_snr_ratio(alpha: float, alpha_next: float) -> float:
    """exp(lambda - lambda_next) with lambda = log sqrt(a / (1 - a)); 0 where the step is infinite."""
    return math.sqrt(alpha / (1 - alpha) * (1 - alpha_next) / alpha_next)
