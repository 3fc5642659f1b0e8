"""torch.nn's layers without initial values: for models whose weights come from a file."""

from __future__ import annotations

from torch import nn


class _NoInitialValues:
    def reset_parameters(self) -> None:
        """Leave the weights as they are; drawing them would only take time, on the meta device too."""


class Linear(_NoInitialValues, nn.Linear):
    pass


class Conv2d(_NoInitialValues, nn.Conv2d):
    pass


class Conv3d(_NoInitialValues, nn.Conv3d):
    pass


class LayerNorm(_NoInitialValues, nn.LayerNorm):
    pass


class GroupNorm(_NoInitialValues, nn.GroupNorm):
    pass
