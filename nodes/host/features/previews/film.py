"""The pictures of one sampling: which step is shown, from which frame on, and when the next may be."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import latent_preview
import numpy as np
from torch import Tensor

from .client import PreviewClient
from .newest_only import NewestOnly
from .pictures import Painter, animated_webp, as_frames, fitted, grid, tiny_decoder_file

LONG_SIDE = 384  # pixels
_PAUSE = 0.2  # seconds between two previews, at least; the last step's always comes
_SHARE = 0.03  # of the time may go into previews
_NO_TINY_DECODER = ("latent2rgb",)  # methods of ComfyUI that ask for another way than a tiny decoder


class _Clip(NamedTuple):
    frames: np.ndarray  # [T, H, W, 3], bytes
    fps: float


class Film:
    """Frames of x0, made after a step when it is time for a preview; a thread encodes and sends them.

    The clips of a batch are shown side by side.
    A preview begins with the frame that the one before it would show by now, so that what moves is seen to move even
    where a step is faster than the clip is long. The last one, which stays, begins with the first frame.

    Args: failed: called with what goes wrong in the thread.
    """

    def __init__(self, client: PreviewClient, patcher: Any, failed: Callable[[Exception], None]) -> None:
        model = patcher.model
        tiny = None if client.preview_method in _NO_TINY_DECODER else tiny_decoder_file()
        self.client = client
        self.painter = Painter(model.latent_format, patcher.load_device, tiny)
        self.ratio: int = model.variant.vae.spatial_compression_ratio
        self.fps = model.variant.defaults.fps / model.variant.vae.temporal_compression_ratio
        self.limit = min(LONG_SIDE, latent_preview.MAX_PREVIEW_RESOLUTION)
        self.start: float | None = None
        self.due = 0.0
        self.sending = NewestOnly(self._send, failed)

    def after(self, x0: Tensor, last: bool) -> None:
        """Show x0 [B, 16, T, h, w], in the model's space, if it is time for a preview or no step follows."""
        if last or (time.perf_counter() >= self.due and not self.sending.busy):
            self.sending.put(self._clip(x0, last))

    def _clip(self, x0: Tensor, last: bool) -> _Clip:
        x0[0, 0, 0, 0, 0].item()  # waits for the device: from here on the time is the preview's own
        began = time.perf_counter()
        rows, columns = grid(len(x0), *x0.shape[3:])
        height, width = x0.shape[3] * rows * self.ratio, x0.shape[4] * columns * self.ratio
        frames = as_frames(self.painter(x0), *fitted(height, width, self.limit))
        self.due = began + max(_PAUSE, (time.perf_counter() - began) / _SHARE)
        self.start = began if self.start is None else self.start
        shown = 0 if last else int((began - self.start) * self.fps) % len(frames)
        return _Clip(np.roll(frames, -shown, axis=0), self.fps)

    def _send(self, clip: _Clip) -> None:
        self.client.show(animated_webp(list(clip.frames), clip.fps))
