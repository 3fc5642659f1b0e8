"""Progress bars on stderr: one for each stage of a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from torch import Tensor
from tqdm import tqdm

from ..pipeline.pipeline import Progress

_FORMAT = "{desc:<9}{percentage:3.0f}%|{bar:30}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_inv_fmt}]"
_UNITS = {"text": "prompt", "sampling": "step", "decoding": "chunk", "writing": "frame"}
_NEXT = {"text": "sampling", "sampling": "decoding"}


class ProgressBars:
    """The bars of one run. The next stage's bar appears as soon as a stage is done, so that its clock starts in time.

    Args:
        num_steps: expected sampling steps; the pipeline's own number replaces it.
        num_frames: frames that will be written.
    """

    def __init__(self, num_steps: int, num_frames: int) -> None:
        self._totals = {"sampling": num_steps, "writing": num_frames}
        self._bars: dict[str, tqdm[Any]] = {}
        self._open = ExitStack()

    def __enter__(self) -> ProgressBars:
        self._begin("text")
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def update(self, progress: Progress) -> None:
        """The pipeline's callback."""
        bar = self._bars[progress.stage] if progress.stage in self._bars else self._begin(progress.stage)
        bar.total = progress.total
        bar.update(progress.step - bar.n)
        bar.refresh()
        if progress.step == progress.total and progress.stage in _NEXT:
            self._begin(_NEXT[progress.stage])

    def writing(self, chunks: Iterator[Tensor]) -> Iterator[Tensor]:
        """Pass chunks [1, 3, f, H, W] on; each counts as written when the next one is asked for."""
        for chunk in chunks:
            yield chunk
            bar = self._bars["writing"] if "writing" in self._bars else self._add("writing")
            bar.update(chunk.shape[2])

    def _begin(self, stage: str) -> tqdm[Any]:
        """Close the bars there are and open the one of `stage`."""
        self._open.close()
        return self._add(stage)

    def _add(self, stage: str) -> tqdm[Any]:
        bar = tqdm(desc=stage, total=self._totals.get(stage), unit=_UNITS[stage], bar_format=_FORMAT)
        self._bars[stage] = self._open.enter_context(bar)
        return bar
