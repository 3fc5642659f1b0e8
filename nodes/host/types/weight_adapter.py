"""An adapter of the core as one of ComfyUI's weight adapters, which it puts on weights like a LoRA.

ComfyUI has adapters of its own, which it takes from files. A LoRA is handed over as theirs (`lora.py`). All others are
computed here as LyCORIS and PEFT compute them: ComfyUI's DoRA takes the norm of another weight, its OFT the square of
the strength, and what its adapters cannot do they tell the log only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from comfy.weight_adapter import WeightAdapterBase
from torch import Tensor

from ....cogvideox_core.weights.adapters import Delta


class CoreAdapter(WeightAdapterBase):
    """A delta as tuples of its parts in `weights`, so that ComfyUI can bring their tensors to a device by itself."""

    name = "cogvideox"

    def __init__(self, loaded_keys: set[str], weights: Any) -> None:
        super().__init__()
        self.loaded_keys = loaded_keys
        self.weights = weights

    @classmethod
    def of(cls, delta: Delta) -> CoreAdapter:
        """The adapter for a delta."""
        return cls(set(), _packed(delta))

    def calculate_weight(
        self,
        weight: Tensor,
        key: str,
        strength: float,
        strength_model: float,
        offset: Any,
        function: Callable[[Tensor], Tensor],
        *others: Any,
        **named: Any,
    ) -> Tensor:
        """The weight [...] with the adapter in it, in place, as ComfyUI's own do it."""
        changed = _unpacked(self.weights).at_strength(weight, strength)
        weight += function((changed - weight).to(weight.dtype))
        return weight


def _packed(part: Any) -> Any:
    """A delta as a tuple of its class and its parts; anything else as it is."""
    if not isinstance(part, Delta):
        return part
    return (type(part), *(_packed(getattr(part, field.name)) for field in fields(part)))


def _unpacked(part: Any) -> Any:
    if not isinstance(part, tuple):
        return part
    kind, *parts = part
    return kind(**{field.name: _unpacked(value) for field, value in zip(fields(kind), parts, strict=True)})
