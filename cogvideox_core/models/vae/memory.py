"""How many bytes a decode or an encode takes beyond the weights: computed from the shape of the model, before it runs.

The walk below goes through the chunks of a clip as the model does and adds up at every step which tensors are alive:
the strips of maps, the frames that convolutions keep, and the bands of rows being computed. The first chunk may be
longer than the others, and the second is the first that finds all cached frames there; later ones are like the second.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch

from ..config import VAEConfig
from ..sizes import VideoSize
from .bands import bands
from .chunks import FRAMES_PER_CHUNK, LATENTS_PER_CHUNK, frame_chunks
from .winograd import is_worth_it, working_bytes

_FLOAT32 = 4  # bytes


class _Map(NamedTuple):
    """Size of a feature map of one clip."""

    channels: int
    frames: int
    height: int
    width: int

    @property
    def numel(self) -> int:
        return self.channels * self.frames * self.height * self.width

    def band(self, device: torch.device, per_row: float | None = None) -> _Map:
        """The highest of its bands."""
        highest = max(stop - start for start, stop in bands(torch.Size((1, *self)), device, per_row))
        return self._replace(height=highest)

    def doubled(self, in_time: bool) -> _Map:
        """After upsampling."""
        frames = 2 * self.frames - self.frames % 2 if in_time and self.frames > 1 else self.frames
        return self._replace(frames=frames, height=2 * self.height, width=2 * self.width)

    def halved(self, in_time: bool) -> _Map:
        """After downsampling."""
        frames = (self.frames + 1) // 2 if in_time else self.frames
        return self._replace(frames=frames, height=self.height // 2, width=self.width // 2)


def _padded(band: _Map) -> _Map:
    """A band with what a causal convolution needs around it."""
    return band._replace(frames=band.frames + 2, height=band.height + 2)


class _Walk:
    """Goes through a model and keeps the highest number of bytes that are allocated at once, in `peak`.

    A map and the highest of its strips are passed along together: a strip is the unit in which maps are freed. Layers
    get the bytes of what is alive while they compute as `alive`.

    Args:
        config: of the VAE.
        dtype, device: of the computation.
        keeps_cache: whether the frames that convolutions keep are on the device, and count.
        resident: bytes that are allocated all the time.
    """

    def __init__(
        self, config: VAEConfig, dtype: torch.dtype, device: torch.device, keeps_cache: bool, resident: int
    ) -> None:
        self.config = config
        self.device = device
        self.dtype = dtype
        self.itemsize = dtype.itemsize
        self.keeps_cache = keeps_cache
        self.resident = resident
        self.peak = 0
        self.is_first_chunk = True
        self.latents = _Map(0, 0, 0, 0)  # what norms are conditioned on

    def bytes(self, x: _Map) -> int:
        return self.itemsize * x.numel

    def record_peak(self, *parts: int) -> None:
        """Record a moment at which so many bytes are allocated on top of the resident ones."""
        self.peak = max(self.peak, self.resident + sum(parts))

    def norm(self, x: _Map, strip: _Map, *alive: int) -> int:
        """The statistics of x, strip by strip. Returns: bytes of scale and shift, which are alive while x is read."""
        cells = self.latents._replace(channels=x.channels).numel
        copies = self.itemsize < _FLOAT32  # to float32
        # While statistics are taken: conv_y(z) and conv_b(z), and one strip copied to float32.
        self.record_peak(*alive, 2 * cells * self.itemsize, strip.numel * _FLOAT32 * copies)
        # While they are combined: those two, the new scale and shift, and the old scale copied to float32.
        self.record_peak(*alive, 2 * cells * self.itemsize, (2 + copies) * cells * _FLOAT32)
        return 2 * cells * _FLOAT32

    def conv(self, x: _Map, channels: int, *alive: int, is_added: bool = False) -> _Map:
        """A causal convolution of x.

        Args:
            alive: includes the result, unless `is_added`.
            is_added: the result is added to a map that is alive, band by band.
        Returns: the highest band of the result.
        """
        band = x.band(self.device, (x.frames + 2) * x.width * max(x.channels, channels))
        result = band._replace(channels=channels)
        part, padded = self.bytes(result), self.bytes(_padded(band))
        padded += self.working(x, result)
        if not self.keeps_cache:
            padded += 2 * self.bytes(band._replace(frames=2))  # being fetched, and being stored
        elif self.is_first_chunk:
            self.resident += self.bytes(x._replace(frames=2))
        if band == x:  # a single band: its buffer, and a result that is not yet added
            self.record_peak(*alive, padded, part * is_added)
        elif is_added:
            # From the second band on: the previous band, with its buffer and the next one, which copies rows of it; or
            # a buffer, the band computed from it, and the one before.
            self.record_peak(*alive, padded, part, max(part, padded))
        else:
            # Two buffers while the band of the second does not exist yet, though `alive` counts the whole result.
            self.record_peak(*alive, max(padded, 2 * padded - part))
        return result

    def working(self, x: _Map, band: _Map) -> int:
        """What the convolution of x to a band of its result allocates for itself."""
        if not is_worth_it(self, band.channels, x.channels, x.frames * x.height * x.width):
            return 0
        return working_bytes(band.channels, x.channels, band.frames, band.height, band.width)

    def block(self, x: _Map, strip: _Map, channels: int) -> tuple[_Map, _Map]:
        """A residual block of x. Returns: its result, and the highest strip of it."""
        hidden = x._replace(channels=channels)
        result, shortcut = self.bytes(hidden), self.bytes(x)  # without a layer for it the shortcut is x itself
        cells = self.norm(x, strip, shortcut)
        if channels == x.channels:
            band = self.conv(x, channels, shortcut, result, cells)
        else:
            # Strips of x are freed while result and shortcut, both of the new width, are made. A strip of x is freed
            # when the last band that reads it is done, so it is alive for up to a strip and a band of each longer than
            # its share. Nor can there be more than all of x and all of both.
            band = self.conv(x, channels, 0)
            late = self.bytes(strip) + 2 * self.bytes(band)
            most = min(max(shortcut, 2 * result) + late, shortcut + 2 * result)
            read = band._replace(channels=x.channels)
            working = self.bytes(read) * (read != x) + self.working(x, band)
            self.record_peak(most, cells, self.bytes(_padded(read)), working)
            strip, shortcut = band, result
        cells = self.norm(hidden, band, shortcut, result)
        self.conv(hidden, channels, shortcut, result, cells, is_added=True)
        return hidden, strip

    def stage(self, x: _Map, strip: _Map, channels: int, blocks: int) -> tuple[_Map, _Map]:
        """So many residual blocks. Returns: as `block`."""
        for _ in range(blocks):
            x, strip = self.block(x, strip, channels)
        return x, strip

    def upsample(self, x: _Map, strip: _Map, level: int) -> tuple[_Map, _Map]:
        """Returns: as `block`."""
        result = x.doubled(level < self.time_levels)
        band = result.band(self.device)
        read = band._replace(frames=x.frames, height=band.height // 2 + 2, width=x.width)  # a row more on each side
        convolved = self.bytes(read.doubled(in_time=False))
        # x is freed strip by strip; a band of the result may be there before the strip that it was made of goes.
        most = self.bytes(result) + min(self.bytes(strip) + self.bytes(band), self.bytes(x))
        self.record_peak(most, self.bytes(read), 2 * convolved)  # doubled, and convolved
        return result, band

    def downsample(self, x: _Map, level: int) -> tuple[_Map, _Map]:
        """Returns: as `block`."""
        result = x.halved(level < self.time_levels)
        band = result.band(self.device, 2 * x.numel / x.height)
        read = self.bytes(x._replace(height=2 * band.height + 1))
        self.record_peak(self.bytes(x), self.bytes(result), 2 * read, self.bytes(band))  # rows read, and padded
        return result, band

    @property
    def time_levels(self) -> int:
        """Levels that double or halve frames too."""
        return self.config.temporal_compression_ratio.bit_length() - 1


def decode_memory(
    config: VAEConfig, size: VideoSize, dtype: torch.dtype, device: torch.device, *, keeps_cache: bool = True
) -> int:
    """Bytes that `decode_stream` of one clip takes on a device beyond weights and latents.

    It is no less than what tensors take, and little more; what a library allocates inside one operation is not counted.

    Args: keeps_cache: False where `cache_device` is another device.
    """
    ratio, widths = config.spatial_compression_ratio, config.block_out_channels[::-1]
    chunks = frame_chunks(-(-size.num_frames // config.temporal_compression_ratio), LATENTS_PER_CHUNK)[:2]
    frames = _Map(config.out_channels, FRAMES_PER_CHUNK + 4, size.height, size.width)
    # The caller still has the frames of the last chunk.
    walk = _Walk(config, dtype, device, keeps_cache, resident=dtype.itemsize * frames.numel)
    for chunk in chunks:
        count = chunk.stop - chunk.start
        walk.latents = x = _Map(config.latent_channels, count, size.height // ratio, size.width // ratio)
        strip = walk.conv(x, widths[0], walk.bytes(x._replace(channels=widths[0])))
        x, strip = walk.stage(strip._replace(height=x.height), strip, widths[0], 2)
        for level, width in enumerate(widths):
            x, strip = walk.stage(x, strip, width, config.layers_per_block + 1)
            if level < len(widths) - 1:
                x, strip = walk.upsample(x, strip, level)
        cells = walk.norm(x, strip, walk.bytes(x))
        made = walk.bytes(x._replace(channels=config.out_channels))
        walk.conv(x, config.out_channels, walk.bytes(x), made, cells)
        walk.record_peak(walk.bytes(x), 2 * made)  # the strips of the frames, and the frames in one piece
        walk.is_first_chunk = False
    return walk.peak


def encode_memory(
    config: VAEConfig, size: VideoSize, dtype: torch.dtype, device: torch.device, *, keeps_cache: bool = True
) -> int:
    """Bytes that encoding one clip takes beyond weights and video; otherwise as `decode_memory`."""
    ratio, widths = config.spatial_compression_ratio, config.block_out_channels
    latent_frames = -(-size.num_frames // config.temporal_compression_ratio)
    moments = _Map(2 * config.latent_channels, 2 * latent_frames, size.height // ratio, size.width // ratio)
    # The results of all chunks, and the tensor they are joined to.
    walk = _Walk(config, dtype, device, keeps_cache, resident=dtype.itemsize * moments.numel)
    for chunk in frame_chunks(size.num_frames, FRAMES_PER_CHUNK)[:2]:
        x = _Map(config.in_channels, chunk.stop - chunk.start, size.height, size.width)
        pixels = walk.bytes(x)
        walk.resident += pixels
        strip = walk.conv(x, widths[0], walk.bytes(x._replace(channels=widths[0])))
        x = x._replace(channels=widths[0])
        for level, width in enumerate(widths):
            x, strip = walk.stage(x, strip, width, config.layers_per_block)
            if level < len(widths) - 1:
                x, strip = walk.downsample(x, level)
        x, strip = walk.stage(x, strip, widths[-1], 2)
        walk.norm(x, strip, walk.bytes(x))
        walk.conv(x, moments.channels, walk.bytes(x), walk.bytes(x._replace(channels=moments.channels)))
        walk.resident -= pixels
        walk.is_first_chunk = False
    return walk.peak


Task = Literal["decode", "encode"]
MEMORY = {"decode": decode_memory, "encode": encode_memory}
