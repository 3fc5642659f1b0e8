"""ComfyUI's layers, for kernels of the core that multiply by their weights without calling them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ....cogvideox_core.kernels.layers import kernel_weights


def with_kernel_weights(operations: Any) -> Any:
    """The same layers, with norms and convolutions that give out their weights unless ComfyUI casts or patches them."""

    class _GivesKernelWeights:
        comfy_cast_weights: bool
        weight_function: Any
        bias_function: Any

        def kernel_weights(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
            """Weight and bias, where they can be used for x without calling the layer."""
            altered = self.comfy_cast_weights or self.weight_function or self.bias_function
            return None if altered else kernel_weights(self, x)

    class Operations(operations):
        class LayerNorm(_GivesKernelWeights, operations.LayerNorm):
            pass

        class Conv2d(_GivesKernelWeights, operations.Conv2d):
            pass

        class Conv3d(_GivesKernelWeights, operations.Conv3d):
            pass

    return Operations
