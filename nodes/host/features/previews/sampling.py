"""Live previews: the clip so far, moving, on the node that samples; under every sampler that takes our MODEL.

The model loader hangs `preview_sampling` around sampling. After a step it turns x0 into frames on the device and hands
them to a thread, which encodes and sends them, so that neither sampling nor the server's event loop waits. Whatever
fails here ends the previews of that run and nothing else.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from types import CellType, FunctionType
from typing import Any, NamedTuple

import latent_preview
import numpy as np
import torch
from torch import Tensor

from ...types.sampling_wrappers import add_sampling_wrapper
from .client import Audience
from .pictures import Painter, animated_webp, as_frames, fitted, tiny_decoder_file

logger = logging.getLogger("cogvideox")

STEP_EVENT = "cogvideox.step"
LONG_SIDE = 384  # pixels
_PAUSE = 0.2  # seconds between two previews, at least; the last step's always comes
_SHARE = 0.03  # of the time may go into previews
_PATIENCE = 0.5  # seconds for the last preview to be on its way before the node ends
_NO_TINY_DECODER = ("latent2rgb",)  # methods of ComfyUI that ask for another way than a tiny decoder

Callback = Callable[[int, Tensor, Tensor, int], Any]


def install() -> None:
    """Show previews of every MODEL that is loaded from now on."""
    add_sampling_wrapper("cogvideox_preview", preview_sampling)


def preview_sampling(
    executor: Any,
    noise: Tensor,
    latent_image: Tensor,
    sampler: Any,
    sigmas: Tensor,
    denoise_mask: Tensor | None = None,
    callback: Callback | None = None,
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    """An OUTER_SAMPLE wrapper: after each step the prompt's client is told, and shown the clip so far."""
    run = None if callback is None else _begin(executor.class_obj.model_patcher)
    if callback is None or run is None:
        return executor(noise, latent_image, sampler, sigmas, denoise_mask, callback, *args, **kwargs)
    plain = without_pictures(callback)

    def shown(step: int, x0: Tensor, x: Tensor, steps: int) -> None:
        plain(step, x0, x, steps)  # first: it ends a run that was cancelled
        run.after(step + 1, steps, x0)

    done = False
    try:
        samples = executor(noise, latent_image, sampler, sigmas, denoise_mask, shown, *args, **kwargs)
        done = True
    finally:
        run.end(wait=done)
    return samples


def without_pictures(callback: Callback) -> Callback:
    """ComfyUI's callback of a sampler without its own preview, which shows the first frame; any other as it is.

    Its progress bar and the x0 it keeps for the sampler are what it is still needed for.
    """
    names = getattr(getattr(callback, "__code__", None), "co_freevars", ())
    if getattr(callback, "__module__", None) != latent_preview.__name__ or "previewer" not in names:
        return callback
    assert isinstance(callback, FunctionType) and callback.__closure__ is not None
    cells = [
        CellType(None) if name == "previewer" else cell for name, cell in zip(names, callback.__closure__, strict=True)
    ]
    return FunctionType(callback.__code__, callback.__globals__, callback.__name__, callback.__defaults__, tuple(cells))


def _begin(patcher: Any) -> _Run | None:
    """The previews of a run that somebody watches."""
    try:
        audience = Audience.present()
        return None if audience is None else _Run(audience, patcher)
    except Exception as error:
        logger.warning(_sentence(error))
        return None


class _Run:
    """What one run of a sampler tells and shows; it ends by itself with the first error, which is logged."""

    def __init__(self, audience: Audience, patcher: Any) -> None:
        self.audience = audience
        self.clock = _Clock(patcher.load_device)
        self.film = None if audience.preview_method == "none" else _Film(audience, patcher, self._give_up)
        self.lock = threading.Lock()
        self.broken = False

    def after(self, step: int, steps: int, x0: Tensor) -> None:
        """Step `step` of `steps`, counted from 1, is done; x0 is [B, 16, T, h, w]."""
        if self.broken:
            return
        try:
            times = self.clock.after(step, steps)
            if self.audience.listens:
                self.audience.tell(STEP_EVENT, step=step, steps=steps, **times)
                if self.film is not None:
                    self.film.after(x0, last=step == steps)
        except Exception as error:
            self._give_up(error)

    def end(self, wait: bool) -> None:
        """No step follows. The last preview is waited for, a little; one of a run that failed is dropped."""
        if self.film is not None:
            self.film.desk.close(_PATIENCE if wait and not self.broken else 0.0)

    def _give_up(self, error: Exception) -> None:
        with self.lock:
            told, self.broken = self.broken, True
        if not told:
            logger.warning(_sentence(error))


class _Clock:
    """How fast a run is, and how much memory of a CUDA device it takes."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.start = time.perf_counter()
        self.first: float | None = None  # when the first step was done; it also loads the model
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def after(self, step: int, steps: int) -> dict[str, float | int | None]:
        """Seconds of a step and of all that is left, and the most bytes that PyTorch held during the run."""
        now = time.perf_counter()
        self.first = now if self.first is None else self.first
        each = (now - self.first) / (step - 1) if step > 1 else now - self.start
        peak = torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else None
        return {"seconds_per_step": each, "seconds_left": each * (steps - step), "peak_bytes": peak}


class _Clip(NamedTuple):
    frames: np.ndarray  # [T, H, W, 3]
    fps: float


class _Film:
    """The pictures of one run: made after a step when it is time for one, encoded and sent by a thread.

    A preview begins where the one before it would be by now, so that what moves is seen to move even where steps are
    faster than the clip is long. The last one, which stays, begins at the beginning.
    """

    def __init__(self, audience: Audience, patcher: Any, failed: Callable[[Exception], None]) -> None:
        model = patcher.model
        tiny = None if audience.preview_method in _NO_TINY_DECODER else tiny_decoder_file()
        self.audience = audience
        self.painter = Painter(model.latent_format, patcher.load_device, tiny)
        self.ratio: int = model.variant.vae.spatial_compression_ratio
        self.fps = model.variant.defaults.fps / model.variant.vae.temporal_compression_ratio
        self.limit = min(LONG_SIDE, latent_preview.MAX_PREVIEW_RESOLUTION)
        self.start: float | None = None
        self.due = 0.0
        self.desk = NewestOnly(self._send, failed)

    def after(self, x0: Tensor, last: bool) -> None:
        """Show x0, if the time has come or none will follow."""
        if last or (time.perf_counter() >= self.due and not self.desk.busy):
            self.desk.put(self._clip(x0, last))

    def _clip(self, x0: Tensor, last: bool) -> _Clip:
        x0[0, 0, 0, 0, 0].item()  # waits for the device: from here on the time is the preview's own
        began = time.perf_counter()
        height, width = (side * self.ratio for side in x0.shape[3:])
        frames = as_frames(self.painter(x0), *fitted(height, width, self.limit))
        self.due = began + max(_PAUSE, (time.perf_counter() - began) / _SHARE)
        self.start = began if self.start is None else self.start
        gone = 0 if last else int((began - self.start) * self.fps) % len(frames)
        return _Clip(np.roll(frames, -gone, axis=0), self.fps)

    def _send(self, clip: _Clip) -> None:
        self.audience.show(animated_webp(list(clip.frames), clip.fps))


class NewestOnly:
    """A thread that works on what is put here; of things that wait, only the newest.

    Args:
        work: what to do with a thing.
        failed: told of what `work` raises.
    """

    def __init__(self, work: Callable[[Any], None], failed: Callable[[Exception], None]) -> None:
        self.work = work
        self.failed = failed
        self.waiting: Any = None
        self.working = False
        self.closed = False
        self.changed = threading.Condition()
        self.thread: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        """Whether something is worked on, or waits."""
        with self.changed:
            return self.working or self.waiting is not None

    def put(self, thing: Any) -> None:
        """Have this done next, in place of what still waits."""
        with self.changed:
            self.waiting = thing
            self.changed.notify()
        if self.thread is None:
            self.thread = threading.Thread(target=self._run, name="cogvideox preview", daemon=True)
            self.thread.start()

    def close(self, patience: float) -> None:
        """Let what waits be finished within so many seconds; with none, it is dropped."""
        with self.changed:
            self.closed = True
            if not patience:
                self.waiting = None
            self.changed.notify()
        if self.thread is not None and patience:
            self.thread.join(patience)

    def _run(self) -> None:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.closed or self.waiting is not None)
                thing, self.waiting = self.waiting, None
                self.working = thing is not None
            if thing is None:
                return
            try:
                self.work(thing)
            except Exception as error:
                self.failed(error)
            with self.changed:
                self.working = False


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"no live previews in this run ({type(error).__name__}{': ' if text else ''}{text}); sampling goes on"
