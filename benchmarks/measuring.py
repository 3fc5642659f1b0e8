"""What every benchmark asks of the machine: its name, its memory, and which code it runs."""

from __future__ import annotations

import os
import platform
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

REPO = Path(__file__).resolve().parents[1]


def anonymous_memory() -> int:
    """Bytes that are this process's own: no file is behind them."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["RssAnon"].split()[0]) * 1024


@contextmanager
def watched() -> Iterator[list[int]]:
    """Anonymous memory, looked at every 2 milliseconds."""
    seen, done = [anonymous_memory()], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            seen.append(anonymous_memory())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def machine_name(device: torch.device, threads: int) -> str:
    """The device, how much of it is used, and PyTorch's version, for a report."""
    if device.type == "cuda":
        return f"one {torch.cuda.get_device_name(device)}, PyTorch {torch.__version__}"
    model = platform.processor() or f"{platform.machine()} CPU"
    cpus = Path("/proc/cpuinfo")
    for line in cpus.read_text().splitlines() if cpus.exists() else ():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return f"{threads} threads of {os.cpu_count()} of one {model}, PyTorch {torch.__version__}"


def commit() -> str:
    """The last commit of what is measured; with a + if that has been changed since."""
    measured = "--", "cogvideox_core", "benchmarks"
    last, changes = (
        subprocess.run(["git", *asked, *measured], cwd=REPO, capture_output=True, text=True).stdout.strip()
        for asked in (["log", "-1", "--format=%h"], ["status", "--porcelain"])
    )
    return (last or "unknown") + "+" * bool(changes)
