"""What runs around the sampling of every MODEL of ours, under whichever sampler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from comfy.patcher_extension import WrappersMP

from .finite import refuse_unfinite
from .leading_frames import pad_sampling

Wrapper = Callable[..., Any]  # (executor, noise, latent_image, sampler, sigmas, ...), of WrappersMP.OUTER_SAMPLE

_features: dict[str, Wrapper] = {}


def add_sampling_wrapper(key: str, wrapper: Wrapper) -> None:
    """Put a wrapper of a feature around the sampling of every MODEL that is loaded from now on; once per key."""
    _features[key] = wrapper


def wrap_sampling(patcher: Any) -> None:
    """Put all wrappers on a MODEL that was just made. Features are outside: they never see the leading frames."""
    for key, wrapper in [*_features.items(), ("cogvideox", pad_sampling), ("cogvideox", refuse_unfinite)]:
        patcher.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, key, wrapper)
