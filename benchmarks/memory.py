"""Which settings for which card: docs/memory.md, from the sizes of the official models.

    python benchmarks/memory.py [--write]

Weights are counted on models without memory, the VAE says beforehand what it takes, and a step's activations are
estimated by what one was measured to take on a GPU (docs/performance-cuda.json). Needs no GPU and no weights.
"""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import nn

from benchmarks.loading import T5_XXL
from cogvideox_core import VARIANTS, CogVideoXTransformer3D
from cogvideox_core.models.shapes import VideoSize, latent_size
from cogvideox_core.models.text_encoder import t5_model
from cogvideox_core.models.vae.autoencoder import AutoencoderCausal3D
from cogvideox_core.models.vae.memory import decode_memory, encode_memory
from cogvideox_core.models.vae.tiling import Tiling
from cogvideox_core.models.variants import Variant
from cogvideox_core.weights.quantize import quantize_model

DOCUMENT = Path(__file__).parents[1] / "docs" / "memory.md"
MEASURED = json.loads((DOCUMENT.parent / "performance-cuda.json").read_text())
GIB = 2**30
CARDS = (6, 8, 12, 16, 24, 48, 80)  # GB by name, which are GiB
MODELS = ("CogVideoX-2B", "CogVideoX-5B", "CogVideoX-5B-I2V", "CogVideoX1.5-5B", "CogVideoX1.5-5B-I2V")
ROWS = ("CogVideoX-2B", "CogVideoX-5B", "CogVideoX1.5-5B")  # the others take as much as their siblings
GPU = torch.device("cuda")
BF16 = torch.bfloat16

# Activations of width D that are alive at once, of every token: measured 8.0 for a guided step of 5B and of 1.5-5B.
ALIVE = 8
REPORTED = 2 * ALIVE  # what the nodes tell ComfyUI (`_memory_usage_factor` in nodes/host/types/model.py)
RESERVED = 1.0 * GIB  # an estimate: CUDA's context and the screen, and 0.4 GiB that ComfyUI keeps free


@dataclass(frozen=True)
class Needs:
    """Bytes that a model of the official size takes, by what runs.

    `decode` and `encode`: the whole picture, the same with what is carried in main memory, blended tiles.
    """

    weights: dict[str, int]
    step: int
    decode: tuple[int, int, int]
    encode: tuple[int, int, int]

    @property
    def kept_free(self) -> int:
        """What ComfyUI keeps free for a step."""
        return self.step * REPORTED // ALIVE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"write {DOCUMENT.name} in place of printing it")
    text = document()
    if parser.parse_args().write:
        DOCUMENT.write_text(text, encoding="utf-8")
    else:
        print(text, end="")


@cache
def needs(name: str) -> Needs:
    """Of an official model at its own size, guided: two halves in one batch."""
    row, vae = VARIANTS[name], VARIANTS[name].vae
    size = VideoSize(row.defaults.height, row.defaults.width, row.defaults.num_frames)
    tile = Tiling.of(vae)
    tiles = VideoSize(tile.tile_height, tile.tile_width, size.num_frames)
    decode, encode = (
        (
            memory(vae, size, BF16, GPU),
            memory(vae, size, BF16, GPU, keeps_cache=False),
            memory(vae, tiles, BF16, GPU),
        )
        for memory in (decode_memory, encode_memory)
    )
    return Needs(weights(row), step_memory(row, size), decode, encode)


def step_memory(row: Variant, size: VideoSize, batch: int = 2) -> int:
    """Bytes of the activations of a step in 16 bits."""
    config = row.transformer
    tokens = config.max_text_seq_length + latent_size(size, config, row).tokens(config)
    return ALIVE * tokens * config.width * BF16.itemsize * batch


def weights(row: Variant) -> dict[str, int]:
    """Bytes of a transformer's weights by form."""
    return _by_form(CogVideoXTransformer3D(row.transformer, device="meta", dtype=BF16).requires_grad_(False))


@cache
def t5_weights() -> dict[str, int]:
    """Bytes of the text encoder's weights by form."""
    return _by_form(t5_model(T5_XXL).to(BF16))


@cache
def vae_weights() -> int:
    """Bytes of the VAE's weights."""
    return _bytes(AutoencoderCausal3D(VARIANTS[MODELS[0]].vae, device="meta", dtype=BF16))


def _by_form(model: nn.Module) -> dict[str, int]:
    plain = _bytes(model)
    quantize_model(model, "int8")
    return {"bf16": plain, "int8": _bytes(model)}


def _bytes(model: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in {**dict(model.named_parameters()), **dict(model.named_buffers())}.values())


# ---- what suits a card


def transformer_choice(name: str, card: int) -> str:
    """How the transformer runs on a card of so many GiB."""
    found, free = needs(name), card * GIB - RESERVED
    for form, size in found.weights.items():
        if size + found.kept_free <= free:
            return form
    streamed = found.weights["int8"] + min(found.kept_free, free) - free
    if found.kept_free <= free:
        return f"int8, {streamed / GIB:.1f} GiB of it streamed"
    return "int8, streamed" if found.step // 2 <= free else "a smaller size"


def text_choice(card: int) -> str:
    """How the text encoder runs; it is done before the transformer comes."""
    free = card * GIB - RESERVED
    return next((form for form, size in t5_weights().items() if size <= free), "int8, streamed")


def decode_choice(name: str, card: int) -> str:
    """How `auto` decodes."""
    free = card * GIB - RESERVED - vae_weights()
    ways = ("exact", "exact, carried in main memory", "blended")
    return next((way for way, size in zip(ways, needs(name).decode, strict=True) if size <= free), "blended")


# ---- the page


def document() -> str:
    """The whole page."""
    lines = [*_head(), *_cards(), *_parts(), *_measured(), *_other_cards(), *_hints()]
    return "\n".join(line if line.startswith("|") else _wrapped(line) for line in lines) + "\n"


def _wrapped(line: str) -> str:
    hanging = "  " if line.startswith("- ") else ""
    return textwrap.fill(line, 120, subsequent_indent=hanging, break_long_words=False, break_on_hyphens=False)


def _head() -> list[str]:
    return [
        "# Which settings for which card",
        "",
        "Written by `python benchmarks/memory.py --write`. The figures of weights and VAE are counted. That of a step "
        "is an estimate based on one measurement on an H200, and that the system keeps "
        f"{RESERVED / GIB:.0f} GiB for itself is a guess. No card but the H200 has been tried.",
        "",
        "You need not set anything: ComfyUI streams what does not fit from main memory, and the VAE nodes choose exact "
        "or blended by themselves (`tiling` auto). Streaming costs time, and INT8 costs [a little "
        "exactness](int8.md); the table uses INT8 only where it saves streaming.",
        "",
    ]


def _cards() -> list[str]:
    head = ["card", "Load T5: quantize", *(name.removeprefix("CogVideoX").lstrip("-") for name in ROWS)]
    lines = [
        "## Cards",
        "",
        "Sizes are the official ones: 49 frames of 720x480, for 1.5 81 frames of 1360x768. The I2V models take as much "
        "as their text-to-video siblings. Each cell says how to load the transformer (bf16: CogVideoX Load Model "
        "alone; int8: with CogVideoX Quantize INT8 behind it), then how `auto` decodes.",
        "",
        *_table_head(head),
    ]
    for card in CARDS:
        cells = [f"{transformer_choice(name, card)}; {decode_choice(name, card)}" for name in ROWS]
        lines.append(_row([f"{card} GB", text_choice(card).replace("bf16", "none"), *cells]))
    return [*lines, ""]


def _parts() -> list[str]:
    lines = [
        "## Parts",
        "",
        "All figures are in GiB. A step is a guided one, with and without the prompt in one batch; if that does not "
        "fit, ComfyUI computes the two halves one after the other, in half of the memory. ComfyUI keeps twice the "
        "estimate free, so that other attention kernels have room. Decode and encode have three figures: exact on "
        "the card / exact, with what is carried between chunks in main memory / in blended tiles.",
        "",
        *_table_head(["model", "weights bf16", "int8", "a step", "kept free", "decode", "encode"]),
    ]
    for name in MODELS:
        found = needs(name)
        sizes = [*found.weights.values(), found.step, found.kept_free]
        lines.append(_row([name, *map(_gib, sizes), _ways(found.decode), _ways(found.encode)]))
    t5 = t5_weights()
    lines.append(_row(["T5-XXL", _gib(t5["bf16"]), _gib(t5["int8"]), "", "", "", ""]))
    lines.append(_row(["VAE", _gib(vae_weights()), "", "", "", "", ""]))
    return [
        *lines,
        "",
        "Main memory must hold what is not on the card: T5 while the transformer works, and the transformer while T5 "
        "works. Files whose dtype is kept are mapped, so the system can drop their pages when it needs memory, and "
        "read them again.",
        "",
    ]


def _measured() -> list[str]:
    scenes = MEASURED["scenes"]
    fives = needs("CogVideoX-5B")
    rows = [
        ("decode, 49 x 480 x 720", fives.decode[0], "decode"),
        ("the same, carried in main memory", fives.decode[1], "decode-carry"),
    ]
    return [
        "## Compared with a measurement",
        "",
        f"On {MEASURED['machine']} ([performance-cuda.md](performance-cuda.md)), in GiB without the weights. "
        "A GPU has computed larger bands at once since then ([gpu.md](gpu.md)), so the estimate is higher:",
        "",
        *_table_head(["", "estimated", "measured"]),
        *(_row([what, _gib(said), _gib(scenes[scene]["peaks"]["ours"])]) for what, said, scene in rows),
        "",
    ]


def _other_cards() -> list[str]:
    bf16, wide = (_gib(factor * needs("CogVideoX-5B").weights["bf16"]) for factor in (1, 2))
    return [
        "## Older cards, and cards of others",
        "",
        "None of these has been tried.",
        "",
        "NVIDIA cards below compute capability 8.0 (T4, V100, RTX 20, GTX 16 and 10) have no arithmetic for bfloat16, "
        "and nothing is computed in an emulated one there. 2B computes in fp16, as it was trained. 5B and 1.5 overflow "
        "in fp16, so they compute in fp32: a step takes twice the memory of the table, and several times as long as in "
        f"16 bits. Where {wide} GiB of weights in fp32 do not fit, ComfyUI keeps them in bf16 ({bf16} GiB) and casts "
        "each layer when it computes; on the command line, `--low-memory` does. The VAE computes in fp32 too, in twice "
        "the memory. INT8 keeps its size: its products run from RTX 20 on, and GTX 10 and V100 decode the weights.",
        "",
        "On cards of AMD, Intel, Apple and Huawei (Ascend), PyTorch's own operations compute: kernels that were made "
        "for NVIDIA's cards are not used. `--device` takes every device that PyTorch has: `xpu`, `mps`, `npu`, "
        "`cuda:1`. bfloat16 is used where the device has arithmetic for it.",
        "",
    ]


def _hints() -> list[str]:
    return [
        "## If memory is still too small",
        "",
        "- Make `width` and `height` smaller first, then `length`: a step's memory grows with all three, its time with "
        "the square of the tokens.",
        "- Set `device` of CogVideoX Load T5 to cpu (`--t5-device cpu`): encoding a prompt takes longer, but then T5 "
        "takes nothing of the card, and the model need not leave it when a prompt changes.",
        "- Load a .gguf with 4 bits, or fp8: [files.md](files.md) lists what opens.",
        "- Set `tiling` of CogVideoX VAE Decode to blended, with smaller tiles.",
        "- Start ComfyUI with `--reserve-vram 1` if other programs use the card too.",
        "- On the command line, `--low-memory` and `--quantize int8` do what ComfyUI does by itself: "
        "[low-memory.md](low-memory.md).",
        "- Black frames have another cause than memory: [troubleshooting.md](troubleshooting.md).",
    ]


def _table_head(cells: list[str]) -> list[str]:
    return [_row(cells), "|" + "---|" * len(cells)]


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _gib(size: int) -> str:
    return f"{size / GIB:.1f}"


def _ways(sizes: tuple[int, int, int]) -> str:
    return " / ".join(map(_gib, sizes))


if __name__ == "__main__":
    main()
