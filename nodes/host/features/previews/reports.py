"""What the client of a prompt is sent after each step: numbers, and the clip so far."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

import torch
from torch import Tensor

from .client import PreviewClient
from .film import Film

logger = logging.getLogger("cogvideox")

STEP_EVENT = "cogvideox.step"
_PATIENCE = 0.5  # seconds for the last preview to be sent before the node ends


class Reports:
    """The messages and pictures of one sampling; the first error ends them, and is logged."""

    def __init__(self, client: PreviewClient, patcher: Any) -> None:
        self.client = client
        self.clock = _Clock(patcher.load_device)
        self.film = None if client.preview_method == "none" else Film(client, patcher, self._give_up)
        self.lock = threading.Lock()
        self.broken = False

    @classmethod
    def begin(cls, patcher: Any) -> Reports | None:
        """The reports of a sampling that starts now; None if nobody waits for them, or they cannot begin."""
        try:
            client = PreviewClient.of_this_node()
            return None if client is None else cls(client, patcher)
        except Exception as error:
            logger.warning(_sentence(error))
            return None

    @property
    def has_pictures(self) -> bool:
        """Whether previews are shown, and not only steps counted."""
        return self.film is not None

    def after(self, step: int, steps: int, x0: Tensor) -> None:
        """Step `step` of `steps`, counted from 1, is done; x0 is [B, 16, T, h, w] in the model's space."""
        if self.broken:
            return
        try:
            times = self.clock.after(step, steps)
            if self.client.is_connected:
                self.client.send(STEP_EVENT, step=step, steps=steps, **times)
                if self.film is not None:
                    self.film.after(x0, last=step == steps)
        except Exception as error:
            self._give_up(error)

    def end(self, wait: bool) -> None:
        """No step follows. The last preview is waited for, a little; that of a sampling that failed is dropped."""
        if self.film is not None:
            self.film.sending.close(_PATIENCE if wait and not self.broken else 0.0)

    def _give_up(self, error: Exception) -> None:
        with self.lock:
            is_first, self.broken = not self.broken, True
        if is_first:
            logger.warning(_sentence(error))


class _Clock:
    """How fast a sampling is, and how much memory of a CUDA device it takes."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.start = time.perf_counter()
        self.first: float | None = None  # when the first step was done; it also loads the model
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def after(self, step: int, steps: int) -> dict[str, float | int | None]:
        """Seconds of a step and of all that is left, and the most bytes that PyTorch has held since the start."""
        now = time.perf_counter()
        self.first = now if self.first is None else self.first
        each = (now - self.first) / (step - 1) if step > 1 else now - self.start
        peak = torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else None
        return {"seconds_per_step": each, "seconds_left": each * (steps - step), "peak_bytes": peak}


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"no live previews in this run ({type(error).__name__}{': ' if text else ''}{text}); sampling goes on"
