"""Adds this machine to docs/machines.md: our time over the peers', alone and beside a busy neighbour.

    python benchmarks/machines.py [--repeats 5] [--threads 2] [--folder docs]

A ratio of one machine is not a fact. For four scenes of performance.py everyone computes in turn in one process, first
on a quiet machine, then while a second process multiplies matrices on the same cores. Run it when nothing else runs.
Writes machines.json, in which a row of the same machine is replaced, and machines.md. Exits with 1 if an aim is missed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch

from benchmarks.measuring import commit, machine_name
from benchmarks.performance import times
from benchmarks.scenes import FLOORS, OURS, on_cpu

REPO = Path(__file__).resolve().parents[1]
NEIGHBOUR = "import torch; torch.set_num_threads({threads}); a = torch.rand(1024, 1024)\nwhile True: a @ a"

# The aims against diffusers on a quiet machine. One is also met within this factor of what its matrices, attention and
# convolutions alone take there; beside a neighbour, ours takes at most as long as diffusers.
AIMS = {"step": 0.80, "step-bf16": 0.80, "decode": 0.70, "run": 0.65}
WITHIN_OF_FLOOR = 1.10

Ratios = dict[str, float]


@contextmanager
def neighbour(threads: int) -> Iterator[None]:
    """Inside, another process computes on as many threads."""
    process = subprocess.Popen([sys.executable, "-c", NEIGHBOUR.format(threads=threads)])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def ratios(name: str, repeats: int) -> Ratios:
    """Our median time over that of each peer, and of what cannot be done faster, in one scene."""
    seconds = times(on_cpu()[name], repeats, torch.device("cpu"))["seconds"]
    medians = {who: statistics.median(runs) for who, runs in seconds.items()}
    return {who: medians[OURS] / median for who, median in medians.items() if who != OURS}


def is_met(name: str, found: Ratios, *, quiet: bool) -> bool:
    """Whether the aim of a scene is met."""
    if not quiet:
        return found["diffusers"] <= 1.0
    floors = [ratio for who, ratio in found.items() if who in FLOORS]
    return found["diffusers"] <= AIMS[name] or any(ratio <= WITHIN_OF_FLOOR for ratio in floors)


def measure(options: argparse.Namespace) -> bool:
    """Measure all scenes, print as it comes, and renew this machine's row. Returns: whether every aim is met."""
    row: dict[str, dict[str, Ratios]] = {}
    machine, met = machine_name(torch.device("cpu"), options.threads), True
    for state in ("quiet", "busy"):
        row[state] = {}
        with neighbour(options.threads) if state == "busy" else nullcontext():
            for name in AIMS:
                row[state][name] = found = ratios(name, options.repeats)
                enough = is_met(name, found, quiet=state == "quiet")
                met &= enough
                listed = ", ".join(f"{ratio:.2f}x {who}" for who, ratio in found.items())
                print(f"{state:<6}{name:<11}{listed}{'' if enough else '   (aim missed)'}", flush=True)
        write(options.folder, {machine: {**row, "commit": commit()}})
    return met


def write(folder: Path, rows: dict[str, dict]) -> None:
    """Renew rows in machines.json, and write machines.md from all of them."""
    data, page = folder / "machines.json", folder / "machines.md"
    kept = json.loads(data.read_text(encoding="utf-8")) if data.exists() else {}
    kept |= rows
    data.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    page.write_text("\n".join(_page(kept)) + "\n", encoding="utf-8")
    print(f"wrote {page} and {data.name}")


def _page(rows: dict[str, dict]) -> Iterator[str]:
    yield "# One command on several machines"
    yield ""
    yield "Written by `python benchmarks/machines.py`, which adds the machine it runs on. Ratios are our time over"
    yield "diffusers', measured in turn in one process: lower is better. *Busy* is the same while a second process"
    yield "multiplies matrices on the same cores. In brackets: our time divided by what the matrices, attention and"
    yield "convolutions alone take."
    yield ""
    names = list(AIMS)
    yield f"| machine | | {' | '.join(names)} | commit |"
    yield "|---" * (len(names) + 3) + "|"
    for machine, row in rows.items():
        for state in (known for known in ("quiet", "busy") if known in row):
            cells = [_cell(row[state][name]) for name in names]
            yield f"| {machine} | {state} | {' | '.join(cells)} | {row['commit']} |"


def _cell(found: Ratios) -> str:
    floor = next((ratio for who, ratio in found.items() if who in FLOORS), None)
    return f"{found['diffusers']:.2f}x" + ("" if floor is None else f" ({floor:.2f}x)")


def main() -> int:
    parser = argparse.ArgumentParser(description="Add this machine to docs/machines.md.")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=REPO / "docs", help="where machines.md goes")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    return 0 if measure(options) else 1


if __name__ == "__main__":
    sys.exit(main())
