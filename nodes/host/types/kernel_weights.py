"""ComfyUI's layers, made to lend their weights to the core's kernels."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ....cogvideox_core.kernels.layers import kernel_weights


def lending(operations: Any) -> Any:
    """The same layers, whose norms and convolutions lend their weights unless ComfyUI casts or patches them."""

    class Lending:
        comfy_cast_weights: bool
        weight_function: Any
        bias_function: Any

        def kernel_weights(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
            """Weight and bias, where they can be used for x without calling the layer."""
            altered = self.comfy_cast_weights or self.weight_function or self.bias_function
            return None if altered else kernel_weights(self, x)

    class Operations(operations):
        class LayerNorm(Lending, operations.LayerNorm):
            pass

        class Conv2d(Lending, operations.Conv2d):
            pass

        class Conv3d(Lending, operations.Conv3d):
            pass

    return Operations
