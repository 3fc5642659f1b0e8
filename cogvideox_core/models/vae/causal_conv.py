"""Convolutions that look back in time only, and what they carry from one chunk of frames to the next."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .feature_maps import Band, FeatureMap, Strips, bands, empty
from .winograd import fast_convolution


class Carry(dict[nn.Module, Tensor]):
    """The last input frames of every causal convolution; one per clip (and per tile), empty at its start.

    Kept in main memory, a GPU copies them on a stream beside the one it computes on: to there at once, from there while
    the band before is computed.

    Args:
        device: where they are kept; None for where the convolution computes.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        super().__init__()
        self.device = device
        self._stream: Any = None

    def keep(self, frames: Tensor, into: Tensor) -> None:
        """Copy two frames to where they are kept."""
        if into.device == frames.device or not frames.is_cuda:
            _copy(frames, into)
            return
        with self._beside(frames.device) as stream:
            _copy(frames, into)
            frames.record_stream(stream)

    def bring(self, parts: Iterable[Tensor], device: torch.device) -> Iterator[Callable[[Tensor], None]]:
        """For each part of two frames what puts it in its place on a device; the part after it is on its way then."""
        begun = map(partial(self._begin, device=device), parts)
        coming = next(begun)
        for following in begun:
            yield coming
            coming = following
        yield coming

    def _begin(self, frames: Tensor, device: torch.device) -> Callable[[Tensor], None]:
        if frames.device == device or device.type != "cuda":
            return partial(_copy, frames)
        arriving = empty(frames.shape, frames, device)
        with self._beside(device) as stream:
            _copy(frames, arriving)
            arriving.record_stream(stream)
            arrived = stream.record_event()

        def put(into: Tensor) -> None:
            torch.cuda.current_stream(device).wait_event(arrived)
            into.copy_(arriving)

        return put

    @contextmanager
    def _beside(self, device: torch.device) -> Iterator[Any]:
        """A stream that comes after all that its device has to do by now; one for both ways, so that they keep their
        order."""
        self._stream = self._stream or torch.cuda.Stream(device)
        self._stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(self._stream):
            yield self._stream


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
        per_row = batch * (frames + 2) * width * max(self.channels)
        spans = list(bands(source.shape, source.device, per_row))
        past, padded, convolve = carry.get(self), None, None
        # A band reads one row more on each side; what the band above has read too comes from there.
        reads = [(start + (start > 0), min(stop + 1, height)) for start, stop in spans]
        put_past = None
        if past is not None:
            put_past = carry.bring((past[:, :, :, top:bottom] for top, bottom in reads), source.device)
        if past is None or past.requires_grad:
            carry[self] = empty((batch, channels, 2, height, width), source, carry.device)
        for (start, stop), (top, bottom) in zip(spans, reads, strict=True):
            # One buffer with everything around the band: the past above it in time, halo rows or zeros in space.
            above, padded = padded, empty((batch, channels, frames + 2, stop - start + 2, width), source)
            padded[:, :, :, : top - start + 1] = 0 if above is None else above[:, :, :, -2:]
            del above
            inner = padded[:, :, :, top - start + 1 : bottom - start + 1]
            source.write(top, bottom, inner[:, :, 2:])
            if put_past is None:
                inner[:, :, :2] = inner[:, :, 2:3]
            else:
                next(put_past)(inner[:, :, :2])
            if bottom == stop:
                padded[:, :, :, -1] = 0
            carry.keep(padded[:, :, -2:, 1:-1], carry[self][:, :, :, start:stop])
            convolve = convolve or fast_convolution(self.conv, padded, frames * height * width)
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
