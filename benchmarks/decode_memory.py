"""Memory of a decode at a model's own size on a CPU: ours, whole or with what is carried apart, and diffusers'.

    python benchmarks/decode_memory.py [--size 49 480 720] [--dtype bfloat16] [--threads 2]

Each decodes the same random latents once, in a process of its own; printed is the most anonymous memory above what
weights and latents take, the seconds, and for ours what `decode_memory` said beforehand. Half an hour for each at
49 x 480 x 720 on two cores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from typing import Any

import torch

from benchmarks.performance import peak
from benchmarks.runs import Run, Video
from benchmarks.scenes import Scene
from cogvideox_core.models.shapes import VideoSize
from cogvideox_core.models.vae.memory import decode_memory
from cogvideox_core.models.variants import VARIANTS

WHO = {"ours": Video.our_decode, "diffusers": Video.diffusers_decode}
GIB = 2**30


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    video = Video(tuple(options.size), getattr(torch, options.dtype))
    if options.measure:
        print(json.dumps(_measured(video, options.measure)))
        return
    frames, height, width = options.size
    print(f"decoding {frames} x {height} x {width} in {options.dtype}", flush=True)
    expected = decode_memory(
        VARIANTS["CogVideoX-5B"].vae, VideoSize(height, width, frames), video.dtype, torch.device("cpu")
    )
    output = 3 * frames * height * width * video.dtype.itemsize
    print(f"ours is expected to take {expected / GIB:.2f} GiB and {output / GIB:.2f} for the frames", flush=True)
    for who in WHO:
        done = subprocess.run([sys.executable, *sys.argv, "--measure", who], stdout=subprocess.PIPE, text=True)
        if done.returncode:
            print(f"{who}: ended with {done.returncode}, for want of memory it seems", flush=True)
            continue
        found = json.loads(done.stdout.splitlines()[-1])
        print(f"{who}: {found['peak'] / GIB:.2f} GiB, {found['seconds']:.0f} s", flush=True)


def _measured(video: Video, who: str) -> dict[str, Any]:
    took: list[float] = []

    def make(device: torch.device) -> Run:
        run = WHO[who](video, device)

        def call() -> torch.Tensor:
            start = time.perf_counter()
            result = run.call()
            took.append(time.perf_counter() - start)
            return result

        return Run(call, run.model)

    found = peak(Scene("", {}), make)
    return {"peak": found, "seconds": took[0]}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=3, default=[49, 480, 720], metavar=("FRAMES", "HEIGHT", "WIDTH"))
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--measure", choices=tuple(WHO), help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
