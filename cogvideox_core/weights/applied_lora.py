"""An adapter on a transformer: what its layers do with it, at a strength that can change, until it is removed.

The weights stay as they are, quantized or not. A LoRA's product is multiplied on its own: y = W x + strength * scale *
up (down x). Other adapters, and LoRAs on the same layer, change a copy of the weight that is made for one call, in the
order in which they were put on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor, nn

from ..kernels.layers import TakesDeltas
from .adapters import Delta, LoRADelta, Sum
from .packed_weight import PackedWeight

if TYPE_CHECKING:
    from .lora_file import LoRAFile


class LoRA:
    """A LoRA, or another adapter, on a transformer. `strength` can be set at any time; `remove` takes it off.

    Attributes:
        file: what was read.
        strength: how far the weights go from their own (0) to those with the adapter (1), or beyond.
        matched, unmatched, ignored: the keys of the file, as in `LoRAFile`.
    Raises: ValueError if the adapter needs weights that cannot be read; the transformer is left as it was.
    """

    def __init__(self, file: LoRAFile, transformer: nn.Module, strength: float) -> None:
        self.file = file
        self.strength = strength
        self.matched, self.unmatched, self.ignored = file.matched, file.unmatched, file.ignored
        modules = dict(transformer.named_modules())
        on = {name: _OnLayer(self, file.deltas.get(name), file.biases.get(name)) for name in file.layers}
        for name, delta in on.items():
            _check_takes(modules[name], delta, name)
        self._undo = [_put(modules[name], delta) for name, delta in on.items()]

    def report(self) -> str:
        """That of the file: which keys matched, which adapter it is, and its scale."""
        return self.file.report()

    def remove(self) -> None:
        """Take it off the transformer."""
        for undo in self._undo:
            undo()
        self._undo.clear()


class _OnLayer:
    """What a LoRA changes of one layer, one of the `deltas` of `kernels.layers`."""

    def __init__(self, lora: LoRA, weight: Delta | None, bias: Delta | None) -> None:
        self.lora, self.weight, self.bias = lora, weight, bias

    @property
    def is_sum(self) -> bool:
        """Whether it adds something to the layer's result that does not depend on the layer's weights."""
        return isinstance(self.weight, Sum) and self.bias is None

    @property
    def changes_weights(self) -> bool:
        """Whether the layer has to multiply by changed weights: not for a LoRA, whose product takes less."""
        is_product = isinstance(self.weight, LoRADelta) and self.bias is None
        return self.lora.strength != 0 and not is_product

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """The layer's result [..., N] with the delta's: output + strength * scale * M x."""
        if not self.lora.strength:
            return output
        assert isinstance(self.weight, Sum)
        return output + self.lora.strength * self.weight.scale * self.weight.product(layer, inputs[0])

    def changed(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Weight [N, ...] and bias [N] of the layer with the delta in them, in 32 bits where it changes them."""
        if not self.lora.strength:
            return weight, bias
        if self.weight is not None:
            weight = self.weight.at_strength(_decoded(weight), self.lora.strength)
        if self.bias is not None:
            bias = weight.new_zeros(len(weight)) if bias is None else bias
            bias = self.bias.at_strength(bias, self.lora.strength)
        return weight, bias


def _decoded(weight: Tensor) -> Tensor:
    """A weight [...] as numbers that can be computed with."""
    return weight.dequantize() if isinstance(weight, PackedWeight) else weight


def _check_takes(layer: nn.Module, delta: _OnLayer, name: str) -> None:
    if not isinstance(layer, TakesDeltas) and not delta.is_sum:
        raise ValueError(
            f"the adapter changes the weights of {name}, which are in {type(layer).__name__} and cannot be read; take "
            "another quantization, such as int8, or an adapter that is a LoRA, LoHa or LoKr"
        )


def _put(layer: nn.Module, delta: _OnLayer) -> Callable[[], None]:
    """Put a delta on a layer, behind those that it has. Returns: what takes it off."""
    if not isinstance(layer, TakesDeltas):
        return layer.register_forward_hook(delta).remove
    layer.deltas += (delta,)

    def undo() -> None:
        layer.deltas = tuple(other for other in layer.deltas if other is not delta)

    return undo
