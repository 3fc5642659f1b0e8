"""Pixels as files hold them: 8 bits of RGB, or of yuv420p by BT.709.

Levels are rounded to the nearest one. Cutting instead makes a video half a level darker each time it is saved.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

KR, KB = 0.2126, 0.0722  # the share of red and blue in luma. Source: ITU-R BT.709-6, item 3.2
_LOWEST, _LUMA_LEVELS, _CHROMA_LEVELS, _CHROMA_ZERO = 16.0, 219.0, 224.0, 128.0  # of "tv" range; item 5.6
_TO_YUV = torch.tensor(
    [
        [KR, 1 - KR - KB, KB],
        [-KR / (2 * (1 - KB)), -(1 - KR - KB) / (2 * (1 - KB)), 0.5],
        [0.5, -(1 - KR - KB) / (2 * (1 - KR)), -KB / (2 * (1 - KR))],
    ]
)


def to_bytes(frame: Tensor) -> Tensor:
    """A frame [3, H, W] in 0 to 1 as [H, W, 3], 8 bits, on the CPU. NaN is 0."""
    return _clean(frame).mul(255).round().to(torch.uint8).movedim(0, -1).contiguous().cpu()


def to_yuv420p(frame: Tensor) -> Tensor:
    """A frame [3, H, W] of RGB in 0 to 1, H and W even, as yuv420p in tv range, on the CPU: [3H/2, W], 8 bits, the rows
    of Y, then U and V. NaN is 0.

    A value of U or V is the mean of its four pixels, as it lies in their middle.
    """
    rgb = _clean(frame)
    luma, *chroma = (_TO_YUV.to(rgb.device) @ rgb.flatten(1)).view_as(rgb)
    y = luma.mul(_LUMA_LEVELS).add(_LOWEST)  # [H, W]
    uv = functional.avg_pool2d(torch.stack(chroma), 2).mul(_CHROMA_LEVELS).add(_CHROMA_ZERO)  # [2, H/2, W/2]
    planes = torch.cat([y.flatten(), uv.flatten()]).round().to(torch.uint8)
    return planes.view(-1, frame.shape[2]).cpu()


def _clean(frame: Tensor) -> Tensor:
    """In float32 and between 0 and 1."""
    return frame.detach().float().nan_to_num(0.0).clamp(0, 1)
