"""Steps without the model: its answer is predicted from the steps that were computed.

x0 is predicted, since it changes least from step to step, whichever sampler adds noise between: x0 and the current
latents give v. A straight line through the last two computed steps overshoots where x0 wanders, so the prediction
follows the line only as far as would have been right the last time.

`Budget` decides by one number, the mean relative error of v over the run. Each computed step shows what error
predicting it would have made; from this the error of predicting the next steps is estimated, and they are predicted
while the budget lasts. The budget is released evenly over the run, so little is available for early steps, whose errors
change everything after them.

Related work: TeaCache (arXiv 2411.19108) decides by the time embedding alone, see `teacache_decisions`;
EasyCache (arXiv 2507.02860) by the change of input and output; TaylorSeer (arXiv 2503.06923) extrapolates features
along a line.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

WARM_UP = 3
"""Steps at the start that are always computed: two for a line, a third to measure how far it holds."""

GROWTH = 1.5
"""The error of a prediction grows with the distance from the last computed step, raised to this power (measured on the
demo model)."""


class StepCache:
    """The last two computed steps of a run, and predictions from them.

    A step has one x0 per conditioning (prompt and negative prompt), all predicted in the same way; `weights` are the
    factors with which guidance adds them up.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        self.weights = weights
        self.computed = 0
        self._steps: list[tuple[int, list[Tensor]]] = []  # at most two: index, x0 of each conditioning
        self._trust: Tensor | float = 0.0  # how much of the line to follow; [B, 1, 1, 1, 1], 0 to 1
        self._error, self._gap = math.inf, 1

    def predict(self, index: int) -> list[Tensor]:
        """Predicted x0 [B, C, T, H, W] of each conditioning at step `index`."""
        last = self._steps[-1][1]
        return [x0 + self._trust * slope for x0, slope in zip(last, self._slopes(index), strict=True)]

    def remember(self, index: int, x0s: list[Tensor], latents: Tensor, alpha: float) -> None:
        """Store a computed step, and measure what error its prediction would have made.

        Args: x0s: of each conditioning, and latents, all [B, C, T, H, W]. alpha: a(t) of the step.
        """
        if self._steps:
            x0 = self._guided(x0s)
            v = math.sqrt(alpha) * latents - x0  # v times sqrt(1 - a); the error of x0 has the same factor
            missed = _norms(x0 - self._guided(self.predict(index))) / _norms(v)
            self._error, self._gap = float(missed.max()), index - self._steps[-1][0]
            if len(self._steps) > 1:
                self._trust = _fitted(x0 - self._guided(self._steps[-1][1]), self._guided(self._slopes(index)))
        self._steps = [*self._steps[-1:], (index, x0s)]
        self.computed += 1

    def expected_error(self, index: int) -> float:
        """The expected error of predicting step `index`, relative to v; of the worst clip in the batch."""
        if self.computed < WARM_UP:
            return math.inf
        return self._error * ((index - self._steps[-1][0]) / self._gap) ** GROWTH

    def _slopes(self, index: int) -> list[Tensor]:
        """The change of each x0 from the last computed step to `index`, along the line through the last two."""
        last, x0s = self._steps[-1]
        if len(self._steps) == 1:
            return [torch.zeros_like(x0) for x0 in x0s]
        before, older = self._steps[0]
        reach = (index - last) / (last - before)
        return [reach * (x0 - old) for x0, old in zip(x0s, older, strict=True)]

    def _guided(self, x0s: list[Tensor]) -> Tensor:
        total = self.weights[0] * x0s[0]
        for weight, x0 in zip(self.weights[1:], x0s[1:], strict=True):
            total = total + weight * x0
        return total


class Budget:
    """How much error a run may still add.

    Args:
        total: mean over all steps of the relative error of v; 0.02, say.
        count: steps of the run.
    """

    def __init__(self, total: float, count: int) -> None:
        self.total, self.count = total, count
        self.spent = 0.0

    def pays(self, index: int, error: float) -> bool:
        """Whether the budget released up to step `index` covers this error; if so, it is spent."""
        spent = self.spent + error / self.count
        if not spent <= self.total * (index + 1) / self.count:
            return False
        self.spent = spent
        return True


def teacache_decisions(embeddings: Tensor, coefficients: Sequence[float], threshold: float) -> list[bool]:
    """TeaCache's rule: whether each step of a run is computed.

    The relative change of the time embedding from step to step goes through a polynomial that was fitted to a model's
    outputs. The values are summed until they reach the threshold; then a step is computed and the sum starts again.
    The first and the last step are always computed.

    Args:
        embeddings: [steps, E], of the run's timesteps in order, before any activation.
        coefficients: of the polynomial, highest power first.
    Source: arXiv 2411.19108, equation 6 and its CogVideoX release.
    """
    embeddings = embeddings.cpu().double()  # Apple's GPUs have no float64
    before, after = embeddings[:-1], embeddings[1:]
    changes = (after - before).abs().mean(dim=1) / before.abs().mean(dim=1)
    plan, added = [True], 0.0
    for change in changes.tolist():
        value = 0.0
        for coefficient in coefficients:
            value = value * change + coefficient
        added += value
        plan.append(added >= threshold)
        if plan[-1]:
            added = 0.0
    plan[-1] = True
    return plan


def _norms(x: Tensor) -> Tensor:
    """The norm of each clip, [B]."""
    return torch.linalg.vector_norm(x, dim=(1, 2, 3, 4))


def _fitted(change: Tensor, slope: Tensor) -> Tensor:
    """The share of `slope` that is nearest to `change`, for each clip: [B, 1, 1, 1, 1], from 0 to 1."""
    dims = (1, 2, 3, 4)
    share = (change * slope).sum(dims, keepdim=True) / slope.square().sum(dims, keepdim=True).clamp_min(1e-20)
    return share.clamp(0.0, 1.0)
