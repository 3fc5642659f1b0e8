"""The arguments that ComfyUI hands to what runs around sampling, by their names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import wraps
from typing import Any

from torch import Tensor

Callback = Callable[[int, Tensor, Tensor, int], Any]  # (step from 0, x0, x, number of steps), after each step


@dataclass(frozen=True)
class SamplingCall:
    """One call of an OUTER_SAMPLE wrapper, in ComfyUI's order; noise and latent_image are [B, C, T, h, w].

    `more` holds what later releases of ComfyUI add by name.
    """

    noise: Tensor
    latent_image: Tensor
    sampler: Any
    sigmas: Tensor  # [steps + 1]
    denoise_mask: Tensor | None = None
    callback: Callback | None = None
    disable_pbar: bool = False
    seed: int | None = None
    more: dict[str, Any] = field(default_factory=dict)

    def run(self, executor: Any) -> Tensor:
        """What the next wrapper, or the sampler itself, makes of it: [B, C, T, h, w]."""
        return executor(*(getattr(self, name) for name in _NAMES), **self.more)


_NAMES = tuple(known.name for known in fields(SamplingCall) if known.name != "more")


def by_name(wrapper: Callable[[Any, SamplingCall], Tensor]) -> Callable[..., Tensor]:
    """An OUTER_SAMPLE wrapper of a function of (executor, call), which returns [B, C, T, h, w]."""

    @wraps(wrapper)
    def outer_sample(executor: Any, *arguments: Any, **options: Any) -> Tensor:
        known = {name: options.pop(name) for name in _NAMES if name in options}
        return wrapper(executor, SamplingCall(*arguments, **known, more=options))

    return outer_sample
