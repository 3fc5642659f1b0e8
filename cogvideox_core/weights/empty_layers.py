"""The layers of `kernels.layers` without initial values, for models whose weights come from a file."""

from __future__ import annotations

from ..kernels import layers


class _NoInitialValues:
    def reset_parameters(self) -> None:
        """Leave the weights as they are: drawing them would take time for nothing, on the meta device too."""


class Linear(_NoInitialValues, layers.Linear):
    pass


class Conv2d(_NoInitialValues, layers.Conv2d):
    pass


class Conv3d(_NoInitialValues, layers.Conv3d):
    pass


class LayerNorm(_NoInitialValues, layers.LayerNorm):
    pass


class GroupNorm(_NoInitialValues, layers.GroupNorm):
    pass
