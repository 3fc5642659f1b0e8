"""What runs around the sampling of every MODEL of ours, under whichever sampler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from comfy.patcher_extension import WrappersMP

from ....cogvideox_core.models.shapes import size_advice
from .finite import refuse_unfinite
from .leading_frames import pad_sampling
from .model_sampling import check_sampling
from .other_nodes import NOTICES, Notices, take_out_halves

Wrapper = Callable[..., Any]  # (executor, noise, latent_image, sampler, sigmas, ...), of WrappersMP.OUTER_SAMPLE

_features: dict[str, Wrapper] = {}


def add_sampling_wrapper(key: str, wrapper: Wrapper) -> None:
    """Put a wrapper of a feature around the sampling of every MODEL that is loaded from now on; once per key."""
    _features[key] = wrapper


def wrap_sampling(patcher: Any) -> None:
    """Put all wrappers on a MODEL that was just made. Features are outside: they never see the leading frames."""
    ours = [("cogvideox", wrapper) for wrapper in (heed_other_nodes, pad_sampling, refuse_unfinite)]
    for key, wrapper in [*_features.items(), *ours]:
        patcher.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, key, wrapper)


def _size_advice(model: Any, shape: tuple[int, ...], model_options: dict[str, Any]) -> str | None:
    """What to know of the size of latents [B, C, T, h, w] for a CogVideoXModel; context windows are for any length."""
    if len(shape) != 5 or "context_handler" in model_options:
        return None
    return size_advice(model.video_size(shape), model.config, model.variant)


def heed_other_nodes(executor: Any, *arguments: Any, **options: Any) -> Any:
    """An OUTER_SAMPLE wrapper: what other nodes put on this MODEL has its effect, or the user reads why not.

    Raises: ValueError if the MODEL cannot be sampled under the noise schedule that another node gave it.
    """
    guider, notices = executor.class_obj, Notices()
    patcher, model_options = guider.model_patcher, guider.model_options
    notices.say(check_sampling(patcher.get_model_object("model_sampling"), patcher.model.variant.name))
    notices.say(_size_advice(patcher.model, arguments[0].shape, model_options))
    take_out_halves(model_options)
    model_options["transformer_options"][NOTICES] = notices  # ComfyUI copies model_options for each run
    return executor(*arguments, **options)
