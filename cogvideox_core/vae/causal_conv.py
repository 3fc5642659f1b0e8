"""Convolutions that look back in time only, and what they carry from one chunk of frames to the next."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .feature_maps import Band, FeatureMap, Strips, bands, empty
from .winograd import fast_convolution


class Carry(dict[nn.Module, Tensor]):
    """The last input frames of every causal convolution; one per clip (and per tile), empty at its start.

    Args:
        device: where they are kept; None for where the convolution computes.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        super().__init__()
        self.device = device


class CausalConv3d(nn.Module):
    """3 x 3 x 3 convolution whose time padding is the past: the carried frames, or the first frame twice."""

    def __init__(self, in_channels: int, out_channels: int, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.conv = operations.Conv3d(in_channels, out_channels, 3, padding=(0, 0, 1), **factory)
        self.channels = in_channels, out_channels

    def forward(self, source: FeatureMap, carry: Carry) -> Strips:
        """[B, C, T, H, W] -> [B, out_channels, T, H, W]; `carry` is read and renewed."""
        return Strips(band.finished() for band in self.bands(source, carry))

    def bands(self, source: FeatureMap, carry: Carry) -> Iterator[Band]:
        """The result in bands from top to bottom.

        When a band is given out, rows of `source` are read down to the one below it.
        """
        batch, channels, frames, height, width = source.shape
        past, padded, convolve = carry.get(self), None, None
        if past is None or past.requires_grad:
            carry[self] = empty((batch, channels, 2, height, width), source, carry.device)
        per_row = batch * (frames + 2) * width * max(self.channels)
        for start, stop in bands(source.shape, source.device, per_row):
            # One buffer with everything around the band: the past above it in time, halo rows or zeros in space.
            above, padded = padded, empty((batch, channels, frames + 2, stop - start + 2, width), source)
            top, bottom = start if above is None else start + 1, min(stop + 1, height)
            padded[:, :, :, : top - start + 1] = 0 if above is None else above[:, :, :, -2:]
            del above
            inner = padded[:, :, :, top - start + 1 : bottom - start + 1]
            source.write(top, bottom, inner[:, :, 2:])
            if past is None:
                inner[:, :, :2] = inner[:, :, 2:3]
            else:
                _copy(past[:, :, :, top:bottom], inner[:, :, :2])
            if bottom == stop:
                padded[:, :, :, -1] = 0
            _copy(padded[:, :, -2:, 1:-1], carry[self][:, :, :, start:stop])
            convolve = convolve or fast_convolution(self.conv, padded)
            yield Band(start, stop, *convolve(padded))


def _copy(source: Tensor, into: Tensor) -> None:
    """Two frames, each in one piece where a clip is alone, so that a GPU copies to and from main memory by itself."""
    for frame in range(2):
        into[:, :, frame].copy_(source[:, :, frame], non_blocking=True)


class PointwiseConv3d(nn.Module):
    """1 x 1 x 1 convolution under the published name `<name>.conv`."""

    def __init__(self, in_channels: int, out_channels: int, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.conv = operations.Conv3d(in_channels, out_channels, 1, **factory)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)
