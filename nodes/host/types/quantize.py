"""A MODEL in 8 bits: loaded from its file again, with everything that was put on it."""

from __future__ import annotations

from typing import Any, Literal, NoReturn

import comfy.lora
import comfy.model_management
import comfy.model_patcher
from torch import nn

from ....cogvideox_core.weights.load import read_transformer
from ....cogvideox_core.weights.quantize import check_method, check_quantizable, quantize_model
from .model import cogvideox_model, load_model


def quantized(patcher: Any, method: Literal["int8", "llm.int8"]) -> Any:
    """A MODEL like this one with its large matrices in 8 bits. The given one stays as it is.

    "int8" keeps LoRAs as patches on top; "llm.int8" has them in the weights it rounds.
    Raises: ValueError if it is not our MODEL, or quantized already; ImportError if bitsandbytes is needed and missing.
    """
    cogvideox_model(patcher)
    check_method(method)
    if patcher.cached_patcher_init is None:
        raise ValueError("a MODEL in llm.int8 already; put CogVideoX Quantize INT8 once behind CogVideoX Load Model")
    path, dtype, *_ = patcher.cached_patcher_init[1]
    if method == "int8":
        return _carried_over(patcher, load_model(path, dtype, "int8"))
    check_quantizable(read_transformer(path).state_dict, method, path)
    fresh = load_model(path, dtype, disable_dynamic=True)
    _merge(fresh.model, patcher.patches)
    quantize_model(fresh.model.diffusion_model, "llm.int8", dtype=fresh.model_dtype(), device=fresh.offload_device)
    fresh.cached_patcher_init = None  # the file alone does not make it again
    return _MergedPatcher.like(_carried_over(patcher, fresh, disable_dynamic=True))


class _MergedPatcher(comfy.model_patcher.ModelPatcher):
    """Of a model whose weights take no patches any more, because those it had are rounded into them."""

    @classmethod
    def like(cls, patcher: Any) -> _MergedPatcher:
        """The same model with everything that is on a plain patcher, but for the patches of its weights."""
        made = cls(patcher.model, patcher.load_device, patcher.offload_device)
        for name, value in vars(patcher).items():
            setattr(made, name, value)
        made.patches = {}
        return made

    def add_patches(self, *args: Any, **options: Any) -> NoReturn:
        raise ValueError(
            "a LoRA behind llm.int8, whose weights take none; put it before CogVideoX Quantize INT8, or take int8 there"
        )


def _carried_over(patcher: Any, fresh: Any, *, disable_dynamic: bool = False) -> Any:
    """What `patcher` has on it (LoRAs, wrappers, options), over the model of `fresh`."""
    clone = patcher.clone(disable_dynamic=disable_dynamic, model_override=fresh.get_clone_model_override())
    clone.size = 0  # has ComfyUI count it again
    clone.cached_patcher_init = fresh.cached_patcher_init
    clone.clone_base_uuid = fresh.clone_base_uuid
    return clone


def _merge(model: Any, patches: dict[str, list[Any]]) -> None:
    """LoRAs into the weights of a model, in float32 and one at a time."""
    for key, of_key in patches.items():
        name, _, leaf = key.rpartition(".")
        layer = model.get_submodule(name)
        weight = getattr(layer, leaf)
        merged = comfy.lora.calculate_weight(of_key, weight.detach().float().clone(), key)
        setattr(layer, leaf, nn.Parameter(merged.to(weight.dtype), requires_grad=False))
