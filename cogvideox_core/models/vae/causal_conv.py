"""Convolutions that look back in time only, and the frames they keep from one chunk to the next."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ...kernels.devices import copies_aside
from ...kernels.layers import fits_onednn_conv
from ...kernels.torch_symbols import onednn_conv3d
from .bands import bands, empty
from .feature_maps import Band, Convolve, FeatureMap, Strips, convolved
from .winograd import is_worth_it, transformed_weight, winograd_conv

CopyInto = Callable[[Tensor], None]
"""Writes two frames to a tensor [B, C, 2, h, W]."""


class ConvCache(dict[nn.Module, Tensor]):
    """The last two input frames [B, C, 2, H, W] of every causal convolution, for its next chunk.

    One per clip (and per tile), empty at its start. When it is in main memory, a GPU copies on a stream of its own
    while it computes: a band's frames are stored as soon as they are known, and those of the next band are fetched
    while the current one is computed.

    Args:
        device: where the frames are kept; None for where the convolution computes.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        super().__init__()
        self.device = device
        self._stream: Any = None

    def store(self, frames: Tensor, into: Tensor) -> None:
        """Copy two frames [B, C, 2, h, W] to a part of the cache of that shape."""
        if into.device == frames.device or not copies_aside(frames.device):
            _copy(frames, into)
            return
        with self._copy_stream(frames.device) as stream:
            _copy(frames, into)
            frames.record_stream(stream)

    def fetch(self, parts: Iterable[Tensor], device: torch.device) -> Iterator[CopyInto]:
        """For each part of the cache [B, C, 2, h, W] a function that writes it to a tensor on `device`.

        The copy of a part begins when the function of the part before is handed out.
        """
        started = map(partial(self._start_copy, device=device), parts)
        current = next(started)
        for following in started:
            yield current
            current = following
        yield current

    def _start_copy(self, frames: Tensor, device: torch.device) -> CopyInto:
        if frames.device == device or not copies_aside(device):
            return partial(_copy, frames)
        arriving = empty(frames.shape, frames, device)
        with self._copy_stream(device) as stream:
            _copy(frames, arriving)
            arriving.record_stream(stream)
            arrived = stream.record_event()

        def write(into: Tensor) -> None:
            torch.cuda.current_stream(device).wait_event(arrived)
            into.copy_(arriving)

        return write

    @contextmanager
    def _copy_stream(self, device: torch.device) -> Iterator[Any]:
        """Inside, copies run on a side stream, which waits for all work that is queued on the device by now.

        Both directions share one stream, so that frames are not fetched before they are stored.
        """
        self._stream = self._stream or torch.cuda.Stream(device)
        self._stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(self._stream):
            yield self._stream


class CausalConv3d(nn.Module):
    """3 x 3 x 3 convolution whose time padding is the past: the cached frames, or the first frame twice."""

    def __init__(self, in_channels: int, out_channels: int, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.conv = operations.Conv3d(in_channels, out_channels, 3, padding=(0, 0, 1), **factory)
        self.channels = in_channels, out_channels

    def forward(self, source: FeatureMap, cache: ConvCache) -> Strips:
        """[B, C, T, H, W] -> [B, out_channels, T, H, W]; `cache` is read and renewed."""
        return Strips(band.with_bias() for band in self.bands(source, cache))

    def bands(self, source: FeatureMap, cache: ConvCache) -> Iterator[Band]:
        """The result in bands from top to bottom.

        When a band is handed out, rows of `source` are read down to the one below it, and none above are read again.
        """
        batch, channels, frames, height, width = source.shape
        per_row = batch * (frames + 2) * width * max(self.channels)
        spans = list(bands(source.shape, source.device, per_row))
        past, padded, convolve = cache.get(self), None, None
        # A band reads one row more on each side. The band above has read its lower one and this band's upper two
        # already, so they are copied from its buffer, and `reads` are the rows that are new.
        reads = [(start + (start > 0), min(stop + 1, height)) for start, stop in spans]
        write_past = None
        if past is not None:
            write_past = cache.fetch((past[:, :, :, top:bottom] for top, bottom in reads), source.device)
        if past is None or past.requires_grad:
            cache[self] = empty((batch, channels, 2, height, width), source, cache.device)
        for (start, stop), (top, bottom) in zip(spans, reads, strict=True):
            # One buffer with everything around the band: two past frames before it, and above and below it a row of the
            # map, or zeros at its edges. [B, C, T + 2, stop - start + 2, W]
            above, padded = padded, empty((batch, channels, frames + 2, stop - start + 2, width), source)
            padded[:, :, :, : top - start + 1] = 0 if above is None else above[:, :, :, -2:]
            del above
            inner = padded[:, :, :, top - start + 1 : bottom - start + 1]
            source.write(top, bottom, inner[:, :, 2:])
            if write_past is None:
                inner[:, :, :2] = inner[:, :, 2:3]
            else:
                next(write_past)(inner[:, :, :2])
            if bottom == stop:
                padded[:, :, :, -1] = 0
            cache.store(padded[:, :, -2:, 1:-1], cache[self][:, :, :, start:stop])
            convolve = convolve or fast_convolution(self.conv, padded, frames * height * width)
            yield Band(start, stop, *convolve(padded))


def fast_convolution(layer: Any, x: Tensor, cells: int) -> Convolve:
    """The fastest way here to convolve padded maps like x [B, C, T + 2, H + 2, W] as a layer does.

    The layer pads columns by itself. On a CPU in float32 oneDNN is asked directly: PyTorch asks it only where
    batch x channels x frames x rows is large, which does not count columns, so for small maps and bands of few rows it
    would be up to six times slower. Wide layers use Winograd's algorithm.

    Args: cells: T * H * W of the whole map, of which x may be a band.
    """
    kernel_weights = getattr(layer, "kernel_weights", None)
    weights = kernel_weights(x) if kernel_weights is not None and fits_onednn_conv(x) else None
    if weights is None:
        return partial(convolved, layer)
    weight, bias = weights
    out_channels, channels = weight.shape[:2]
    if is_worth_it(x, out_channels, channels, cells):
        transformed = transformed_weight(weight)
        return lambda x: (winograd_conv(x, weight, bias, transformed), None)
    return lambda x: (onednn_conv3d(x, weight, bias), None)


def _copy(source: Tensor, into: Tensor) -> None:
    """Two frames, each in one piece where a clip is alone, so that a GPU copies to and from main memory by itself."""
    non_blocking = copies_aside(source.device) or copies_aside(into.device)
    for frame in range(2):
        into[:, :, frame].copy_(source[:, :, frame], non_blocking=non_blocking)


class PointwiseConv3d(nn.Module):
    """1 x 1 x 1 convolution under the published name `<name>.conv`."""

    def __init__(self, in_channels: int, out_channels: int, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.conv = operations.Conv3d(in_channels, out_channels, 1, **factory)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels, T, H, W] -> [B, out_channels, T, H, W]."""
        return self.conv(x)
