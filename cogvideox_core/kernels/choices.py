"""Which of several ways to compute an operation is the fastest here: measured once on a machine, kept for next time.

Libraries differ by processor, by release and by how their threads wait, so no rule is right everywhere. The ways that
are chosen between differ by rounding only. Results are kept by machine in a JSON file in the user's cache folder, or in
the folder that `COGVIDEOX_CACHE` names; without the file everything is measured again, which takes about two seconds.
`COGVIDEOX_MEASURE=off` measures nothing and takes the defaults.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch

logger = logging.getLogger("cogvideox")

Ways = Mapping[str, Callable[[], object]]
"""The ways by their names; each computes an example."""

MEASURE, CACHE = "COGVIDEOX_MEASURE", "COGVIDEOX_CACHE"
OFF = ("off", "0", "no", "false")
"""What switches something off in an environment variable."""

_ROUNDS, _SECONDS = 5, 0.5  # of all ways in turn, whichever ends first; at least two rounds
_CLEARLY = 0.95  # of the default's time; less of a gain is not told from noise

_chosen: dict[str, str] = {}


def fastest(operation: str, make_ways: Callable[[], Ways], default: str) -> str:
    """The name of the fastest way to compute an operation on this machine.

    Args:
        operation: what is computed, with whatever decides which way is the fastest; what was measured is kept by it.
        make_ways: makes the ways and their example; called only to measure.
        default: the way to take where nothing is measured, and where no other one is clearly faster.
    """
    chosen = _chosen.get(operation)
    if chosen is not None:
        return chosen
    if os.environ.get(MEASURE, "").strip().lower() in OFF:
        return default
    _chosen[operation] = chosen = _known_or_measured(operation, make_ways, default)
    return chosen


def _known_or_measured(operation: str, make_ways: Callable[[], Ways], default: str) -> str:
    known = _read().get(machine(), {}).get(operation)
    if isinstance(known, str):
        return known
    began = time.perf_counter()
    with torch.no_grad():
        ways = make_ways()
        times = _times(ways)
    best = min(times, key=times.__getitem__)
    chosen = best if times[best] < _CLEARLY * times[default] else default
    logger.debug("%s: %s is taken, measured in %.1f s", operation, chosen, time.perf_counter() - began)
    _keep(operation, chosen)
    return chosen


def _times(ways: Ways) -> dict[str, float]:
    """The shortest of some runs of each way, in seconds, taken in turn so that a neighbour slows all of them."""
    for compute in ways.values():
        compute()
    times = dict.fromkeys(ways, float("inf"))
    began = time.perf_counter()
    for number in range(_ROUNDS):
        if number >= 2 and time.perf_counter() - began > _SECONDS:
            break
        for name, compute in ways.items():
            start = time.perf_counter()
            compute()
            times[name] = min(times[name], time.perf_counter() - start)
    return times


# --- Kept for next time -----------------------------------------------------------------------------------------------


def file_of_choices() -> Path:
    """Where choices are kept."""
    given = os.environ.get(CACHE)
    if given:
        return Path(given).expanduser() / "choices.json"
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "cogvideox" / "choices.json"


@cache
def machine() -> str:
    """What times depend on: processor, threads and how they wait, PyTorch's release."""
    waiting = os.environ.get("OMP_WAIT_POLICY", "").lower() or "default"
    return f"{_processor()}, {torch.get_num_threads()} threads ({waiting}), PyTorch {torch.__version__}"


def _processor() -> str:
    name = platform.processor() or platform.machine()
    with suppress(OSError):  # Linux; elsewhere there is no such file
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    return name


def _read() -> dict[str, dict[str, str]]:
    """What is kept, by machine and operation; nothing where the file is missing or is none of ours."""
    try:
        kept = json.loads(file_of_choices().read_text(encoding="utf-8"))
    except (OSError, RuntimeError, ValueError):
        return {}
    sound = isinstance(kept, dict) and all(isinstance(choices, dict) for choices in kept.values())
    return kept if sound else {}


def _keep(operation: str, chosen: str) -> None:
    """Add a choice to the file; a folder that cannot be written to costs a measurement next time, and nothing else."""
    kept = _read()
    kept.setdefault(machine(), {})[operation] = chosen
    with suppress(OSError, RuntimeError):
        file = file_of_choices()
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f"{file.name}.{os.getpid()}")
        part.write_text(json.dumps(kept, indent=1), encoding="utf-8")
        part.replace(file)
