"""What live previews cost: whole runs of the demo model in a real ComfyUI, with previews and without, in turn.

    python benchmarks/preview_cost.py [--runs 20] [--steps 50] [--size 96 96 17] [--cpu-threads N]

Every run is queued by a connected client and has a seed of its own, so that only sampling is done; its time is what the
server says passed between its start and its end. Prints the medians, the ratio, and what was shown; exits with 1 if
previews cost more than 3 % of the time.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from itertools import count
from pathlib import Path

from tests.support.graphs import text_to_video
from tests.support.host import Events, Host

AIM = 1.03
WARM_UP = 2  # runs of each kind that do not count
METHODS = {"with previews": "auto", "without": "none"}


def main() -> int:
    options = _options()
    seeds = count(1)
    environment = {"OMP_NUM_THREADS": str(options.cpu_threads)} if options.cpu_threads else {}
    times: dict[str, list[float]] = {name: [] for name in METHODS}
    with tempfile.TemporaryDirectory() as folder, Host(Path(folder), environment=environment) as host:
        with host.events() as events:
            for run in range(WARM_UP + options.runs):
                for name in sorted(METHODS, reverse=bool(run % 2)):
                    seconds = _run(host, events, _graph(options, next(seeds)), METHODS[name])
                    if run >= WARM_UP:
                        times[name].append(seconds)
            shown = len(events.previews) / (WARM_UP + options.runs)
            largest = max(len(file) for _, file in events.previews)
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    for name, median in medians.items():
        spread = statistics.quantiles(times[name], n=4)
        print(f"{name:<14} {median:.3f} s, half of the runs between {spread[0]:.3f} and {spread[2]:.3f}")
    ratio = medians["with previews"] / medians["without"]
    print(f"ratio          {ratio:.3f}, {options.runs} runs each; {shown:.1f} previews a run, up to {largest} bytes")
    return 0 if ratio <= AIM else 1


def _run(host: Host, events: Events, graph: dict, method: str) -> float:
    """Seconds between the start and the end of a run, by the server's clock."""
    history = host.run(graph, client_id=events.client_id, extra_data={"preview_method": method})
    start, end = history.message("execution_start"), history.message("execution_success")
    assert start is not None and end is not None
    return (end["timestamp"] - start["timestamp"]) / 1000


def _graph(options: argparse.Namespace, seed: int) -> dict:
    width, height, length = options.size
    graph = text_to_video("demo", steps=options.steps, cfg=3.0, seed=seed)
    graph["model"]["inputs"]["model_name"] = "demo/text-to-video"
    graph["latent"]["inputs"] |= {"width": width, "height": height, "length": length}
    return graph


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20, help="of each kind (default: 20)")
    parser.add_argument("--steps", type=int, default=50, help="of each run (default: 50)")
    parser.add_argument(
        "--size", type=int, nargs=3, default=(96, 96, 17), metavar=("W", "H", "F"), help="(default: 96 96 17)"
    )
    parser.add_argument("--cpu-threads", type=int, default=0, help="of PyTorch (default: its own choice)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
