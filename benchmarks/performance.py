"""Ours next to the peers, scene by scene: seconds, memory, and how far apart the numbers are; docs/performance-cpu.md.

    python benchmarks/performance.py [--device cpu] [--scenes NAME ...] [--repeats 5] [--threads 2] [--folder docs]

In a scene (scenes.py) everyone computes the same thing from the same weights and inputs (runs.py). Times are taken in
one process, in turn, after a warm-up, and the median counts. The peak of memory is taken above what weights and inputs
take: on a CPU in a process of each one's own. Writes performance-DEVICE.json, .md and .png, in which --scenes renews
its rows. Exits with 1 if an aim is missed.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.measuring import commit, machine_name, watched
from benchmarks.runs import Maker, Run, weight_bytes
from benchmarks.scenes import FLOORS, OURS, Scene, on_cpu, on_gpu
from tests.support.parity import psnr_db, relative_difference, snr_db

REPO = Path(__file__).resolve().parents[1]
GIB = 2**30
Measured = dict[str, Any]


# --- Measuring -------------------------------------------------------------------------------------------------------


def measured(name: str, scene: Scene, options: argparse.Namespace) -> Measured:
    """Seconds of every run and peak bytes by who ran, how far ours is from the first peer, and what was asked."""
    device = torch.device(options.device)
    if device.type == "cuda":
        found = times(scene, options.repeats, device)
        gc.collect()
        torch.cuda.empty_cache()
        return found
    found = _in_a_new_process(name, "", options)
    return found | {"peaks": {who: _in_a_new_process(name, who, options)["peak"] for who in scene.makers}}


@torch.no_grad()
def times(scene: Scene, repeats: int, device: torch.device) -> Measured:
    """Everything on a GPU; all but the peaks on a CPU."""
    runs: dict[str, Run] = {}
    peaks, results = {}, {}
    for who, make in scene.makers.items():
        runs[who] = make(device)
        results[who] = runs[who].call().cpu()
        if device.type == "cuda":
            peaks[who] = _peak_on_gpu(runs[who].call, device) + weight_bytes(runs[who].model) * scene.with_weights
    seconds: dict[str, list[float]] = {who: [] for who in runs}
    for _ in range(repeats):
        for who, run in runs.items():
            start = time.perf_counter()
            run.call()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds[who].append(time.perf_counter() - start)
    first_peer = list(results)[1]
    close = snr_db if scene.db is None else psnr_db
    apart, db = (compare(results[OURS], results[first_peer]) for compare in (relative_difference, close))
    found: Measured = {"seconds": seconds, "apart": apart, "db": db, "peaks": peaks}
    if scene.reference is not None:
        reference = scene.reference(device).call().cpu()
        found["to_reference"] = [snr_db(results[who], reference) for who in (OURS, first_peer)]
    return found | {"kernels": kernels(runs[OURS], device)} if device.type == "cuda" else found


def _peak_on_gpu(call: Any, device: torch.device) -> int:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


@torch.no_grad()
def peak(scene: Scene, make: Maker) -> int:
    """Bytes of anonymous memory one run takes on the CPU beyond what it finds."""
    run = make(torch.device("cpu"))
    with watched() as seen:
        run.call()
    return max(seen) - seen[0] + weight_bytes(run.model) * scene.with_weights


def _in_a_new_process(name: str, who: str, options: argparse.Namespace) -> Measured:
    command = [sys.executable, __file__, "--measure", name, who, "--repeats", str(options.repeats)]
    command += ["--threads", str(options.threads), "--device", options.device]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def kernels(run: Run, device: torch.device) -> list[str]:
    """The GPU kernels that take most of a run's time, with their share of it."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        run.call()
        torch.cuda.synchronize(device)
    found = sorted(seen.key_averages(), key=lambda item: -item.device_time_total)
    total = sum(item.device_time_total for item in found) or 1
    return [f"{item.device_time_total / total:4.0%} {item.key[:100]}" for item in found[:5]]


# --- The report ------------------------------------------------------------------------------------------------------

HEAD = """# How fast, how much memory: {where}

Written by `{command}` on {machine}; medians of {runs} runs.

Ratios are ours divided by the peer's: lower is better. The absolute figures in brackets are ours. Memory is what a
run takes in addition to its weights and inputs. "Apart" is the difference between ours and the first peer; a cell
with two decibels gives the difference of each from the peer in float32. Where the aim is in decibels, they are a
video's PSNR, otherwise signal to noise. Matrices, attention and convolutions alone, computed here on random numbers
of the same shapes, are the least time that a program around them can take.

![Ratios and aims]({picture})

"""


TABLE = ["| scene | beside | time | memory | apart | aim | reached |", "|---" * 7 + "|"]


def rows(scene: Scene, found: Measured) -> Iterator[tuple[list[str], bool]]:
    """A line for every peer of a scene, and whether its aims are reached."""
    seconds = {who: statistics.median(runs) for who, runs in found["seconds"].items()}
    peaks = found["peaks"]
    for index, peer in enumerate(peer for peer in list(scene.makers)[1:] if peer in seconds):
        first = not index
        asked = Asked(scene, peer, first=first)
        time_ratio = seconds[OURS] / seconds[peer]
        memory_ratio = peaks[OURS] / max(peaks[peer], 1)
        enough = time_ratio <= asked.time and memory_ratio <= asked.memory
        if first:
            enough &= scene.apart is None or found["apart"] <= scene.apart
            enough &= scene.db is None or found["db"] >= scene.db
            enough &= scene.gib is None or peaks[OURS] <= scene.gib * GIB
        yield (
            [
                scene.what,
                peer,
                f"{time_ratio:.2f}x ({_seconds(seconds[OURS])})",
                "" if peer in FLOORS else f"{memory_ratio:.2f}x ({_bytes(peaks[OURS])})",
                _apart(scene, found, peer) if first else "",
                asked.in_words(),
                ("yes" if enough else "**no**") if asked.anything() else "",
            ],
            enough,
        )


class Asked:
    """The aims of a scene against one peer; those of our code alone are listed with the first peer."""

    def __init__(self, scene: Scene, peer: str, *, first: bool) -> None:
        self.scene, self.first = scene, first
        self.time, self.memory = scene.time.get(peer, math.inf), scene.memory.get(peer, math.inf)

    def in_words(self) -> str:
        """In words, as they are in the table."""
        words = [f"time {self.time:.2f}x"] * (self.time < math.inf)
        words += [f"memory {self.memory:.2f}x"] * (self.memory < math.inf)
        if self.first:
            words += [f"{number} {unit}" for number, unit in ((self.scene.gib, "GiB"), (self.scene.db, "dB")) if number]
            if self.scene.apart is not None:
                words.append(f"{self.scene.apart:.0e}" if self.scene.apart else "the same numbers")
        return ", ".join(words)

    def anything(self) -> bool:
        """Whether anything is asked at all."""
        return bool(self.in_words())


def _apart(scene: Scene, found: Measured, peer: str) -> str:
    if scene.apart is not None:
        return f"{found['apart']:.0e}"
    if "to_reference" not in found:
        return f"{found['db']:.0f} dB"
    ours, theirs = found["to_reference"]
    return f"{ours:.0f} dB, {peer} {theirs:.0f} dB"


def _seconds(number: float) -> str:
    return f"{number:.2f} s" if number >= 0.095 else f"{1000 * number:.1f} ms"


def _bytes(number: float) -> str:
    if number < 2**20:
        return f"{number / 2**10:.0f} KiB"
    return f"{number / GIB:.2f} GiB" if number >= GIB else f"{number / 2**20:.0f} MiB"


def draw(results: dict[str, tuple[Scene, Measured]], path: Path) -> None:
    """Bars of our time and memory over each peer's, with a mark where the aim is."""
    import matplotlib  # pyright: ignore[reportMissingImports]

    matplotlib.use("Agg")
    from matplotlib import pyplot  # pyright: ignore[reportMissingImports]

    bars = []
    for name, (scene, found) in results.items():
        seconds = {who: statistics.median(runs) for who, runs in found["seconds"].items()}
        for peer in seconds:
            if peer in scene.time or peer in scene.memory:
                memory = found["peaks"][OURS] / max(found["peaks"][peer], 1)
                bars.append((f"{name} / {peer}", seconds[OURS] / seconds[peer], memory, scene.time.get(peer)))
    figure, axis = pyplot.subplots(figsize=(9, 0.5 * len(bars) + 1.5), layout="constrained")
    for row, (_, time_ratio, memory, aim) in enumerate(bars):
        axis.barh(row - 0.18, time_ratio, 0.34, color="#3b6ea8", label="time" if not row else None)
        axis.barh(row + 0.18, min(memory, 1.5), 0.34, color="#c9a227", label="memory" if not row else None)
        if aim is not None:
            axis.plot([aim, aim], [row - 0.4, row + 0.02], color="black", label="aim" if not row else None)
    axis.axvline(1, color="grey", linewidth=0.8)
    axis.set_yticks(range(len(bars)), [label for label, *_ in bars])
    axis.invert_yaxis()
    axis.set_xlabel("ours / peer (lower is better)")
    axis.legend(loc="lower right")
    figure.savefig(path, dpi=90)


def main() -> int:
    options = _options()
    torch.set_num_threads(options.threads)
    scenes = on_gpu() if options.device == "cuda" else on_cpu()
    if options.measure:
        name, who = options.measure
        scene = scenes[name]
        measured = (
            {"peak": peak(scene, scene.makers[who])} if who else times(scene, options.repeats, torch.device("cpu"))
        )
        print(json.dumps(measured))
        return 0
    if options.rewrite:
        write(scenes, options.folder / f"performance-{options.device}", options.device)
        return 0
    return report(scenes, options.scenes or list(scenes), options)


def report(scenes: dict[str, Scene], names: list[str], options: argparse.Namespace) -> int:
    """Measure the scenes of these names, print as it comes, and renew their rows in the report.

    Returns: the exit status.
    """
    print("\n".join(TABLE))
    options.folder.mkdir(parents=True, exist_ok=True)
    stem, machine = (
        options.folder / f"performance-{options.device}",
        machine_name(torch.device(options.device), options.threads),
    )
    numbers = _kept(stem.with_suffix(".json"), machine)
    reached = True
    for name in names:
        try:
            numbers[name] = measured(name, scenes[name], options) | {"what": scenes[name].what, "commit": commit()}
        except (RuntimeError, subprocess.CalledProcessError) as error:  # a peer may not fit; the others go on
            print(f"{name} failed: {error}", flush=True)
            reached = False
            continue
        for cells, enough in rows(scenes[name], numbers[name]):
            print(f"| {' | '.join(cells)} |", flush=True)
            reached &= enough
        stem.with_suffix(".json").write_text(json.dumps({"machine": machine, "scenes": numbers}, indent=1) + "\n")
    write(scenes, stem, options.device)
    return 0 if reached else 1


def write(scenes: dict[str, Scene], stem: Path, device: str) -> None:
    """The report of what is in the JSON file."""
    known = json.loads(stem.with_suffix(".json").read_text(encoding="utf-8"))
    found = {
        name: (scene, known["scenes"][name])
        for name, scene in scenes.items()
        if known["scenes"].get(name, {}).get("what") == scene.what
    }
    stem.with_suffix(".md").write_text(written(found, known["machine"], device), encoding="utf-8")
    draw(found, stem.with_suffix(".png"))


def _kept(path: Path, machine: str) -> dict[str, Measured]:
    """What was measured before, if it was on the same machine."""
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return known["scenes"] if known.get("machine") == machine else {}


def written(found: dict[str, tuple[Scene, Measured]], machine: str, device: str) -> str:
    """The report."""
    where = "a GPU" if device == "cuda" else "a CPU"
    command = "python benchmarks/performance.py" + (" --device cuda" if device == "cuda" else "")
    lines = list(TABLE)
    for scene, numbers in found.values():
        lines += [f"| {' | '.join(cells)} |" for cells, _ in rows(scene, numbers)]
    commits: dict[str, list[str]] = {}
    for name, (_, numbers) in found.items():
        commits.setdefault(numbers["commit"], []).append(name)
    lines += ["", "Measured at commit:", ""]
    lines += [f"- {made_at}: {', '.join(names)}" for made_at, names in commits.items()]
    if device == "cuda":
        lines += ["", "The kernels that take most of our time:", ""]
        for name, (_, numbers) in found.items():
            lines += [f"    {name}", *(f"        {kernel}" for kernel in numbers["kernels"])]
    counts = sorted({len(runs) for _, numbers in found.values() for runs in numbers["seconds"].values()})
    runs = " to ".join(str(count) for count in (counts if len(counts) < 3 else (counts[0], counts[-1])))
    head = HEAD.format(where=where, command=command, machine=machine, runs=runs, picture=f"performance-{device}.png")
    return head + "\n".join(lines) + "\n"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--scenes", nargs="+", default=[], metavar="NAME", help=f"{', '.join(on_cpu())}; on a GPU others"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--folder", type=Path, default=REPO / "docs", help="where the report goes")
    parser.add_argument("--rewrite", action="store_true", help="measure nothing, write the report from its JSON file")
    parser.add_argument("--measure", nargs=2, metavar=("SCENE", "WHO"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    known = on_gpu() if options.device == "cuda" else on_cpu()
    if unknown := [name for name in options.scenes if name not in known]:
        parser.error(f"no scene {', '.join(unknown)}; there are {', '.join(known)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
