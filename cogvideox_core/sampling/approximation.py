"""What may be traded for speed. Every option is off by default, and then a run is exact.

docs/approximations.md, written by `benchmarks/approximations.py`, has what each saves and costs.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .step_cache import Budget, StepCache, teacache_decisions

if TYPE_CHECKING:
    from ..models.transformer.model import CogVideoXTransformer3D

logger = logging.getLogger("cogvideox")


@dataclass(frozen=True)
class Approximation:
    """What a run may approximate.

    Attributes:
        cache_budget: the estimated error that predicted steps may add up to, as mean relative error of v over the run;
            0 computes every step.
        teacache: threshold of TeaCache's rule, an alternative to the budget; 0 is off. Its polynomials were fitted to
            the official weights; for others the rule is only a guess.
        guidance_until: the share of the steps in which the negative prompt is computed; 1 computes it in all. After
            them the last difference that guidance made is reused, and shrinks with the noise.
    """

    cache_budget: float = 0.0
    teacache: float = 0.0
    guidance_until: float = 1.0

    @property
    def exact(self) -> bool:
        return self.cache_budget == 0.0 and self.teacache == 0.0 and self.guidance_until == 1.0

    def check(self) -> None:
        """Raises: ValueError that says what came, what fits and what to do."""
        if not 0.0 <= self.cache_budget <= 1.0:
            raise ValueError(f"cache_budget={self.cache_budget}; it is an error from 0, for none, to 1; 0.03 is usual")
        if not 0.0 <= self.teacache <= 1.0:
            raise ValueError(f"teacache={self.teacache}; it is a threshold from 0, for off, to 1; 0.1 is usual")
        if not 0.0 < self.guidance_until <= 1.0:
            raise ValueError(
                f"guidance_until={self.guidance_until}; it is the part of the steps with guidance, above 0 and at "
                "most 1"
            )
        if self.cache_budget and self.teacache:
            raise ValueError(
                f"cache_budget={self.cache_budget} and teacache={self.teacache} both decide which steps are computed; "
                "set one of them to 0"
            )


EXACT = Approximation()


class ApproximateRun:
    """One run under an `Approximation`: decides for each step, in order, whether it is computed or predicted.

    It works on x0, which hosts such as ComfyUI predict too.

    Args:
        timesteps: of the run, in order.
        guidance_scale: g of u + g (c - u), where there is a negative prompt; None where there is none.
        computed: whether each step is computed, where a list decides instead of the budget.
    """

    def __init__(
        self,
        approximation: Approximation,
        timesteps: Sequence[int],
        guidance_scale: float | None,
        computed: Sequence[bool] | None = None,
    ) -> None:
        count = len(timesteps)
        self.count = count
        self.done = 0.0  # steps computed so far; one without the negative prompt counts half
        self._index_of = {timestep: index for index, timestep in reversed([*enumerate(timesteps)])}
        self._next = 0
        self._computed = computed
        self._budget = Budget(approximation.cache_budget, count)
        self._cache = StepCache((1.0,) if guidance_scale is None else (guidance_scale, 1.0 - guidance_scale))
        self._guided_until = count if guidance_scale is None else math.ceil(approximation.guidance_until * count)
        self._difference: Tensor | None = None  # (x0 with the prompt - x0 with the negative one) / (1 - a)

    def predict(
        self, timestep: int, latents: Tensor, alpha: float, compute: Callable[[bool], list[Tensor]]
    ) -> list[Tensor]:
        """x0 with the prompt and, if there is a negative prompt, x0 with that one; each [B, C, T, H, W], float32.

        Args:
            latents: [B, C, T, H, W] at this timestep, variance-preserving: sqrt(a) x0 + sqrt(1 - a) noise.
            alpha: a(t).
            compute: computes both by the model; called with False it leaves out the negative prompt.
        A timestep that is not one of the run, or comes a second time (some samplers evaluate twice), is computed.
        """
        index = self._index_of.get(timestep, -1)
        if index < self._next:
            return compute(True)
        self._next = index + 1
        if self._skips(index):
            return self._cache.predict(index)
        if index < self._guided_until:
            x0s = compute(True)
            self.done += 1
            if len(x0s) > 1:
                self._difference = (x0s[0] - x0s[1]) / (1 - alpha)
        else:
            x0 = compute(False)[0]
            self.done += 0.5
            assert self._difference is not None
            x0s = [x0, x0 - (1 - alpha) * self._difference]
        self._cache.remember(index, x0s, latents, alpha)
        return x0s

    def report(self) -> None:
        """Log what was saved."""
        logger.info(f"{self.done:g} of {self.count} steps were computed, the others predicted")

    def _skips(self, index: int) -> bool:
        """Whether this step is predicted; the first and the last never are."""
        if not self._cache.computed or index == self.count - 1:
            return False
        if self._computed is not None:
            return not self._computed[index]
        return self._budget.pays(index, self._cache.expected_error(index))


def approximate(
    approximation: Approximation,
    transformer: CogVideoXTransformer3D,
    timesteps: Sequence[int],
    guidance_scale: float | None,
    like: Tensor,
) -> ApproximateRun:
    """A new `ApproximateRun` with this transformer.

    Args: like: a tensor `[...]` with the device and dtype in which the model computes.
    Raises: ValueError for options out of range, or TeaCache for a model without a polynomial.
    """
    approximation.check()
    computed = None
    if approximation.teacache:
        if transformer.variant is None or not transformer.variant.teacache:
            raise ValueError(
                f"teacache={approximation.teacache}, but there is no polynomial for this model; use cache_budget "
                "instead"
            )
        at = torch.tensor(timesteps, device=like.device)
        embeddings = transformer.time_vector(at, None, like)
        computed = teacache_decisions(embeddings, transformer.variant.teacache, approximation.teacache)
    return ApproximateRun(approximation, timesteps, guidance_scale, computed)
