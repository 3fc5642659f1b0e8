"""A thread that skips what is out of date."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


class NewestOnly:
    """A thread that works on what is put here; of things that wait, only the newest.

    Args:
        work: what to do with a thing.
        failed: called with what `work` raises.
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
