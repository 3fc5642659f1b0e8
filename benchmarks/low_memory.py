"""A guided step of a full-size 5B with its weights on the device, and with them streamed: seconds and memory.

    python benchmarks/low_memory.py [--device cuda] [--form int8|bfloat16] [--layers 42] [--size 13 60 90] [--repeats 5]

The weights are random, since neither figure depends on them. Both ways take the same attention and the same latents,
in turn in one process; a step is the prediction with and without the prompt. Memory is the most that is allocated on
the device (on a CPU: the process's anonymous memory), the streamed way first, before anything else is there. Exits with
1 if an aim is missed on a GPU at full size: 2.5 GiB streamed in INT8, in at most 1.05 times the time.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measuring import anonymous_memory, machine_name, watched
from cogvideox_core import VARIANTS, CogVideoXTransformer3D
from cogvideox_core.models.transformer.adaln_table import tabulated
from cogvideox_core.models.transformer.attention import choose_attention
from cogvideox_core.models.transformer.model import ExpertLayerNorm, FinalLayerNorm
from cogvideox_core.pipeline.offload import OffloadedModule
from cogvideox_core.sampling.predictor import TABULATED_STEPS
from cogvideox_core.weights.quantize import quantize_model

TIMESTEPS = range(999, 19, -20)
MEMORY, TIME = 2.5, 1.05


@torch.no_grad()
def main() -> int:
    options = _options()
    device = torch.device(options.device)
    transformer = _transformer(options.form, options.layers)
    norms = [module for module in transformer.modules() if isinstance(module, ExpertLayerNorm | FinalLayerNorm)]
    offloaded = OffloadedModule(
        transformer,
        device,
        blocks=transformer.transformer_blocks,
        resting=[norm.linear for norm in norms],
        pin=True,
    )
    step = _step(transformer, tuple(options.size), device)
    streamed, streamed_peak = _measured(lambda: step(True), offloaded.on_device, options.repeats, device)
    for name, module in transformer.named_modules():
        if not name.endswith((".norm1.linear", ".norm2.linear")):
            for key, tensor in module._parameters.items():
                if tensor is not None:
                    module._parameters[key] = nn.Parameter(tensor.detach().to(device), requires_grad=False)
    resident, resident_peak = _measured(lambda: step(True), nullcontext, options.repeats, device)
    batched, batched_peak = _measured(lambda: step(False), nullcontext, options.repeats, device)
    print(f"{options.form}, {options.layers} blocks, {options.size}, {machine_name(device, torch.get_num_threads())}")
    print("| weights | guidance | seconds of a step | GiB |\n|---|---|---|---|")
    print(f"| streamed | in two halves | {streamed:.3f} ({streamed / resident:.3f}x) | {streamed_peak:.2f} |")
    print(f"| on the device | in two halves | {resident:.3f} | {resident_peak:.2f} |")
    print(f"| on the device | in one batch | {batched:.3f} ({batched / resident:.3f}x) | {batched_peak:.2f} |")
    asked = device.type == "cuda" and options.layers == 42 and options.form == "int8"
    return int(asked and (streamed_peak > MEMORY or streamed > TIME * resident))


def _transformer(form: str, count: int) -> CogVideoXTransformer3D:
    """A 5B of so many blocks in CPU memory, with random weights."""
    config = replace(VARIANTS["CogVideoX-5B"].transformer, num_layers=count)
    model = CogVideoXTransformer3D(config, device="meta", dtype=torch.bfloat16)
    torch.manual_seed(0)
    numbers = 0.02 * torch.randn(max(tensor.numel() for tensor in model.parameters()), dtype=torch.bfloat16)
    for module in model.modules():
        for key, tensor in module._parameters.items():
            if tensor is None:
                continue
            drawn = numbers[: tensor.numel()].view(tensor.shape).clone()  # the same for all, since drawing takes long
            module._parameters[key] = nn.Parameter(drawn, requires_grad=False)
    if form == "int8":
        quantize_model(model, "int8")
    return model.eval()


def _step(
    transformer: CogVideoXTransformer3D, size: tuple[int, ...], device: torch.device
) -> Callable[[bool], AbstractContextManager[Callable[[], Tensor]]]:
    """`step(split)` is a schedule's context, and gives what computes one of its steps."""
    config, generator = transformer.config, torch.Generator().manual_seed(1)
    latents = torch.randn(1, config.in_channels, *size, generator=generator).to(device, torch.bfloat16)
    embeds = torch.randn(2, 226, config.text_embed_dim, generator=generator).to(device, torch.bfloat16)
    attention = choose_attention("auto", device, torch.bfloat16)

    @contextmanager
    def step(split: bool) -> Any:
        with tabulated(transformer, TIMESTEPS[:TABULATED_STEPS], latents):
            parts = embeds.split(1 if split else 2)

            def run() -> Tensor:
                predicted = []
                for part in parts:
                    timestep = torch.full((len(part),), TIMESTEPS[10], device=device)
                    rows = latents.repeat(len(part), 1, 1, 1, 1)
                    predicted.append(transformer(rows, part, timestep, attention=attention))
                return torch.cat(predicted)

            yield run

    return step


def _measured(
    step: Callable[[], AbstractContextManager[Callable[[], Tensor]]],
    present: Callable[[], AbstractContextManager[Any]],
    repeats: int,
    device: torch.device,
) -> tuple[float, float]:
    """The median time of a step in seconds, after one that warms up, and the most memory in GiB."""
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    before = anonymous_memory()
    seconds = []
    with watched() as seen, present(), step() as run:
        for _ in range(repeats + 1):
            _wait(device)
            start = time.perf_counter()
            run()
            _wait(device)
            seconds.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated(device) if cuda else max(seen) - before
    return statistics.median(seconds[1:]), peak / 2**30


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--form", choices=("int8", "bfloat16"), default="int8")
    parser.add_argument("--layers", type=int, default=42)
    parser.add_argument("--size", type=int, nargs=3, default=(13, 60, 90), help="latent frames, rows, columns")
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
