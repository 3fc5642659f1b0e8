"""Ours beside the peers, scene by scene: seconds, memory, and how far apart the numbers are; docs/performance.md.

    python benchmarks/performance.py [--scenes NAME ...] [--repeats 5] [--threads 2] [--device cpu] [--output FILE]

In a scene everyone computes the same thing from the same weights and inputs. Times are taken in one process, in turn,
after a warm-up, and the median counts; the peak of memory is taken in a process of each one's own, above what its
weights take. Peers: diffusers, and ComfyUI's own CogVideoX where it computes the same (the 1.5 family, which is why the
1.5 scene exists). Exits with 1 if an aim is missed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO / "tests"))

from checkpoints import OFFICIAL  # noqa: E402
from forms import comfyui_name  # noqa: E402
from parity import relative_difference, snr_db  # noqa: E402

from cogvideox_core import layers, load_pipeline  # noqa: E402
from cogvideox_core.attention import sdpa  # noqa: E402
from cogvideox_core.config import TransformerConfig, VAEConfig  # noqa: E402
from cogvideox_core.demo import DEMO_GUIDANCE, DEMO_MODEL, DEMO_STEPS  # noqa: E402
from cogvideox_core.positions import rotary_table  # noqa: E402
from cogvideox_core.transformer import CogVideoXTransformer3D  # noqa: E402
from cogvideox_core.vae import AutoencoderCausal3D  # noqa: E402
from cogvideox_core.weights.int8 import Method, quantise_model  # noqa: E402

REPORT = REPO / "docs" / "performance.md"
OURS = "ours"
Run = Callable[[], Tensor]


@dataclass(frozen=True)
class Scene:
    """What is computed, by whom, and what is asked.

    Attributes:
        makers: who takes part; each makes its model and gives back what runs it once. The first is ours.
        time, memory: largest ratio to each peer that is asked.
        apart: largest relative difference from the first peer's numbers that is asked; None where they are in 16 bits.
    """

    what: str
    makers: dict[str, Callable[[torch.device], Run]]
    time: dict[str, float] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)
    apart: float | None = 1e-5


# --- Scenes ----------------------------------------------------------------------------------------------------------

# A transformer wide enough that its matrices and not Python take the time: 2,000 tokens and more, as in the paper's.
_MIDDLE = dict(num_attention_heads=12, num_layers=4, time_embed_dim=256, text_embed_dim=512)
_LATENT = (7, 32, 32)  # frames, rows, columns: 1,792 video tokens and 226 of text
_LATENT_15 = (14, 32, 32)  # the same number of tokens in patches of two frames


def _transformer(kind: str) -> Any:
    """diffusers' transformer of this kind at middle size, in float32."""
    from diffusers import CogVideoXTransformer3DModel

    torch.manual_seed(0)
    return CogVideoXTransformer3DModel(**OFFICIAL[kind].transformer | _MIDDLE).eval().requires_grad_(False)


def _step_inputs(config: Any, size: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    """Latents [2, C, T, h, w], embeddings [2, 226, D] and timesteps [2]: a guided step."""
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(1, config.in_channels, *size, generator=generator).repeat(2, 1, 1, 1, 1)
    embeds = torch.randn(2, 226, config.text_embed_dim, generator=generator)
    return [latents.to(device, dtype), embeds.to(device, dtype), torch.tensor([500, 500], device=device)]


def _our_step(
    kind: str, size: tuple[int, int, int], dtype: torch.dtype, quantize: Method = "none"
) -> Callable[[torch.device], Run]:
    def make(device: torch.device) -> Run:
        peer = _transformer(kind)
        config = _config(TransformerConfig, peer.config)
        model = CogVideoXTransformer3D(config, dtype=torch.float32).eval().requires_grad_(False)
        model.load_state_dict(peer.state_dict())
        model.to(device, dtype)
        quantise_model(model, quantize)
        inputs = _step_inputs(config, size, dtype, device)
        return lambda: model(*inputs)

    return make


def _diffusers_step(
    kind: str, size: tuple[int, int, int], dtype: torch.dtype, quantize: Method = "none"
) -> Callable[[torch.device], Run]:
    def make(device: torch.device) -> Run:
        model = _transformer(kind).to(device, dtype)
        quantise_model(model, quantize)
        config = _config(TransformerConfig, model.config)
        latents, embeds, timestep = _step_inputs(config, size, dtype, device)
        grid = (size[0] // config.frame_patch, size[1] // 2, size[2] // 2)
        cos, sin = rotary_table(grid, config, device)

        def run() -> Tensor:
            found = model(latents.transpose(1, 2), embeds, timestep, image_rotary_emb=(_doubled(cos), _doubled(sin)))
            return found.sample.transpose(1, 2)

        return run

    return make


def _floor_step(kind: str, size: tuple[int, int, int], dtype: torch.dtype) -> Callable[[torch.device], Run]:
    """The matrices and the attention of a step, and nothing else: what no arrangement of the rest can go below."""

    def make(device: torch.device) -> Run:
        config = _config(TransformerConfig, OFFICIAL[kind].transformer | _MIDDLE)
        tokens = 226 + math.prod(size) // config.frame_patch // config.patch_size**2
        width, heads = config.width, config.num_attention_heads
        shapes = [(width, width)] * 4 + [(width, 4 * width), (4 * width, width)]
        matrices = [layers.Linear(*shape, device=device, dtype=dtype).requires_grad_(False) for shape in shapes]
        inputs = [torch.randn(2, tokens, layer.in_features, device=device, dtype=dtype) for layer in matrices]
        heads_of = torch.randn(3, 2, heads, tokens, width // heads, device=device, dtype=dtype)

        def run() -> Tensor:
            for _ in range(config.num_layers):
                for layer, x in zip(matrices, inputs, strict=True):
                    layer(x)
                sdpa(*heads_of)
            return inputs[0]

        return run

    return make


def _doubled(table: Tensor) -> Tensor:
    """A value for each channel, where our rotary tables have one for each pair."""
    return table.repeat_interleave(2, dim=-1)


def _comfyui_step(kind: str, size: tuple[int, int, int], dtype: torch.dtype) -> Callable[[torch.device], Run]:
    def make(device: torch.device) -> Run:
        _import_comfyui()
        import comfy.ops
        from comfy.ldm.cogvideo.model import CogVideoXTransformer3DModel

        peer = _transformer(kind)
        known = set(CogVideoXTransformer3DModel.__init__.__code__.co_varnames)
        arguments = {key: value for key, value in dict(peer.config).items() if key in known}
        model = CogVideoXTransformer3DModel(**arguments, dtype=dtype, device=device, operations=comfy.ops.manual_cast)
        model.load_state_dict({comfyui_name(key): tensor for key, tensor in peer.state_dict().items()})
        latents, embeds, timestep = _step_inputs(_config(TransformerConfig, peer.config), size, dtype, device)
        model.to(device, dtype).eval().requires_grad_(False)
        return lambda: model(latents, timestep, embeds)

    return make


def _import_comfyui() -> None:
    import provision

    sys.path.insert(0, str(provision.comfyui()))
    sys.argv = [sys.argv[0], "--cpu"]
    import comfy.options

    comfy.options.enable_args_parsing()


def _vae() -> Any:
    """diffusers' VAE at full width, in float32."""
    from diffusers import AutoencoderKLCogVideoX

    torch.manual_seed(0)
    return AutoencoderKLCogVideoX(**OFFICIAL["CogVideoX-5B"].vae).eval().requires_grad_(False)


def _vae_input(task: str, frames: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    if task == "encode":
        return torch.rand(1, 3, frames, height, width, generator=generator) * 2 - 1
    return torch.randn(1, 16, (frames - 1) // 4 + 1, height // 8, width // 8, generator=generator)


def _our_vae(task: str, size: tuple[int, int, int], dtype: torch.dtype) -> Callable[[torch.device], Run]:
    def make(device: torch.device) -> Run:
        peer = _vae()
        model = AutoencoderCausal3D(_config(VAEConfig, peer.config)).eval().requires_grad_(False)
        model.load_state_dict(peer.state_dict())
        model.to(device, dtype)
        x = _vae_input(task, *size).to(device, dtype)
        return (lambda: model.encode(x).mean) if task == "encode" else (lambda: model.decode(x))

    return make


def _diffusers_vae(task: str, size: tuple[int, int, int], dtype: torch.dtype) -> Callable[[torch.device], Run]:
    def make(device: torch.device) -> Run:
        model = _vae().to(device, dtype)
        x = _vae_input(task, *size).to(device, dtype)
        return (lambda: model.encode(x).latent_dist.mean) if task == "encode" else (lambda: model.decode(x).sample)

    return make


_PROMPT = "a red ball bouncing in front of a meadow"


def _our_run(device: torch.device) -> Run:
    pipeline = load_pipeline(DEMO_MODEL, dtype=torch.float32, device=device)
    asked = {"num_inference_steps": DEMO_STEPS, "guidance_scale": DEMO_GUIDANCE}
    return lambda: pipeline(_PROMPT, generator=torch.Generator().manual_seed(1), **asked)


def _diffusers_run(device: torch.device) -> Run:
    import diffusers

    pipeline = diffusers.CogVideoXPipeline.from_pretrained(DEMO_MODEL, torch_dtype=torch.float32).to(device)
    pipeline.set_progress_bar_config(disable=True)
    asked = {"num_inference_steps": DEMO_STEPS, "guidance_scale": DEMO_GUIDANCE, "num_frames": 17, "output_type": "pt"}
    return lambda: pipeline(_PROMPT, generator=torch.Generator().manual_seed(1), **asked).frames.transpose(1, 2)


def _step(what: str, kind: str, size: tuple[int, int, int], dtype: torch.dtype, *, comfyui: bool = False) -> Scene:
    makers = {
        OURS: _our_step(kind, size, dtype),
        "diffusers": _diffusers_step(kind, size, dtype),
        "its matrices and attention alone": _floor_step(kind, size, dtype),
    }
    time = {"diffusers": 0.80}
    if comfyui:
        makers["ComfyUI's own"] = _comfyui_step(kind, size, dtype)
        time["ComfyUI's own"] = 0.60
    return Scene(what, makers, time=time, apart=1e-5 if dtype == torch.float32 else None)


def _int8_step(what: str, kind: str, size: tuple[int, int, int], dtype: torch.dtype) -> Scene:
    makers = {
        OURS: _our_step(kind, size, dtype, "int8"),
        "diffusers with bitsandbytes INT8": _diffusers_step(kind, size, dtype, "llm.int8"),
        "ours with bitsandbytes INT8": _our_step(kind, size, dtype, "llm.int8"),
        "ours without": _our_step(kind, size, dtype),
    }
    asked = dict.fromkeys(list(makers)[1:3], 0.80)
    return Scene(what, makers, time=asked, apart=None)


def _vae_scene(what: str, task: str, size: tuple[int, int, int], dtype: torch.dtype, memory: float) -> Scene:
    makers = {OURS: _our_vae(task, size, dtype), "diffusers": _diffusers_vae(task, size, dtype)}
    exact = dtype == torch.float32
    return Scene(what, makers, {"diffusers": 0.60}, {"diffusers": memory}, apart=1e-5 if exact else None)


SCENES = {
    "step": _step("a guided transformer step, 2,018 tokens, float32", "CogVideoX-5B", _LATENT, torch.float32),
    "step-bf16": _step("the same in bfloat16", "CogVideoX-5B", _LATENT, torch.bfloat16),
    "step-1.5": _step(
        "a guided step of the 1.5 kind, float32", "CogVideoX1.5-5B", _LATENT_15, torch.float32, comfyui=True
    ),
    "step-int8": _int8_step("a step in INT8, activations in float32", "CogVideoX-5B", _LATENT, torch.float32),
    "step-int8-bf16": _int8_step("the same in bfloat16", "CogVideoX-5B", _LATENT, torch.bfloat16),
    "decode": _vae_scene("full-width VAE decode, 9 x 128 x 192, float32", "decode", (9, 128, 192), torch.float32, 0.5),
    "decode-bf16": _vae_scene("the same in bfloat16", "decode", (9, 128, 192), torch.bfloat16, 0.5),
    "encode": _vae_scene("full-width VAE encode, 9 x 128 x 192, float32", "encode", (9, 128, 192), torch.float32, 0.5),
    "run": Scene(
        "the demo model from prompt to frames, 25 steps, float32",
        {OURS: _our_run, "diffusers": _diffusers_run},
        {"diffusers": 0.75},
        apart=1e-4,
    ),
}


def _config(kind: Any, values: Any) -> Any:
    """One of our configurations from a diffusers configuration."""
    known = {item.name for item in fields(kind)}
    chosen = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items() if key in known}
    return kind(**chosen)


# --- Measuring -------------------------------------------------------------------------------------------------------


def times(scene: Scene, repeats: int, device: torch.device) -> dict[str, Any]:
    """Seconds of every run by who ran, and how far ours lies from the first peer."""
    runs = {who: make(device) for who, make in scene.makers.items()}
    results = {who: run() for who, run in runs.items()}
    seconds: dict[str, list[float]] = {who: [] for who in runs}
    for _ in range(repeats):
        for who, run in runs.items():
            start = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds[who].append(time.perf_counter() - start)
    first_peer = list(results)[1]
    return {
        "seconds": seconds,
        "apart": relative_difference(results[OURS], results[first_peer]),
        "db": snr_db(results[OURS], results[first_peer]),
    }


def peak(scene: Scene, who: str, device: torch.device) -> int:
    """Bytes one run takes beyond what it finds: anonymous memory on the CPU, allocated memory on a GPU."""
    run = scene.makers[who](device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    with _watched() as seen:
        run()
    return max(seen) - seen[0]


@contextmanager
def _watched() -> Any:
    """The process's anonymous memory, looked at every 2 milliseconds."""
    seen, done = [_anonymous()], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            seen.append(_anonymous())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def _anonymous() -> int:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["RssAnon"].split()[0]) * 1024


# --- The report ------------------------------------------------------------------------------------------------------


def main() -> int:
    options = _options()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    if options.measure:
        name, who = options.measure
        scene = SCENES[name]
        with torch.no_grad():
            told = {"peak": peak(scene, who, device)} if who else times(scene, options.repeats, device)
        print(json.dumps(told))
        return 0
    lines, reached = ["| scene | beside | time | memory | apart | aim: time, memory, apart | |", "|---" * 7 + "|"], True
    print("\n".join(lines))
    for name in options.scenes:
        for line, enough in _rows(name, options):
            print(line, flush=True)
            lines.append(line)
            reached &= enough
    if options.scenes == [*SCENES]:
        options.output.write_text(HEAD.format(machine=_machine(options)) + "\n".join(lines) + "\n", encoding="utf-8")
    return 0 if reached else 1


HEAD = """# How fast, how much memory

Written by `python benchmarks/performance.py` on {machine}.

Ratios are ours over the peer's, lower is better; the absolute figures in brackets are ours. Memory is what a run takes
beyond the weights. A step's matrices and attention alone, as PyTorch computes them here, are the floor for whatever is
arranged around them.

"""


def _rows(name: str, options: argparse.Namespace) -> list[tuple[str, bool]]:
    """A line for every peer of a scene, and whether its aims are reached."""
    scene = SCENES[name]
    measured = _in_a_new_process(name, "", options)
    seconds = {who: statistics.median(runs) for who, runs in measured["seconds"].items()}
    peaks = {who: _in_a_new_process(name, who, options)["peak"] for who in scene.makers}
    rows = []
    for index, peer in enumerate(list(scene.makers)[1:]):
        time_ratio, memory_ratio = seconds[OURS] / seconds[peer], peaks[OURS] / peaks[peer]
        time_aim, memory_aim = scene.time.get(peer, math.inf), scene.memory.get(peer, math.inf)
        apart = "" if index else f"{measured['apart']:.0e}" if scene.apart else f"{measured['db']:.0f} dB"
        enough = time_ratio <= time_aim and memory_ratio <= memory_aim
        enough &= bool(index) or scene.apart is None or measured["apart"] <= scene.apart
        aims = [f"{aim:.2f}x" if aim < math.inf else "" for aim in (time_aim, memory_aim)]
        cells = [
            scene.what,
            peer,
            f"{time_ratio:.2f}x ({seconds[OURS]:.2f} s)",
            f"{memory_ratio:.2f}x ({peaks[OURS] / 2**20:.0f} MiB)",
            apart,
            ", ".join(filter(None, [*aims, f"{scene.apart:.0e}" if scene.apart and not index else ""])),
            ("yes" if enough else "**no**") if peer in scene.time or peer in scene.memory else "",
        ]
        rows.append((f"| {' | '.join(cells)} |", enough))
    return rows


def _in_a_new_process(name: str, who: str, options: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, "--measure", name, who, "--repeats", str(options.repeats)]
    command += ["--threads", str(options.threads), "--device", options.device]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _machine(options: argparse.Namespace) -> str:
    if options.device == "cuda":
        return f"one {torch.cuda.get_device_name()}, PyTorch {torch.__version__}"
    return (
        f"{options.threads} threads of a {platform.machine()} CPU ({os.cpu_count()} cores), PyTorch {torch.__version__}"
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", nargs="+", choices=[*SCENES], default=[*SCENES], help="these, and no report")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=REPORT)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
