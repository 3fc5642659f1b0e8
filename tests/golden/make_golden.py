"""Write one golden file per model: what diffusers builds from the published configuration.

    python tests/golden/make_golden.py [KIND ...]

A golden holds what a full-size model must look like without its weights: number and digest of the keys and shapes of
transformer and VAE, alphas at some timesteps, and the position codes of some tokens. It is made from diffusers and the
configurations in tests/support/checkpoints.py, never from our own code, which is what it is compared with.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXTransformer3DModel
from diffusers.models.embeddings import get_3d_rotary_pos_embed, get_3d_sincos_pos_embed
from torch import Tensor, nn

from tests.support.checkpoints import OFFICIAL

HERE = Path(__file__).resolve().parent

TIMESTEPS = (0, 1, 19, 499, 979, 998, 999)
CHANNELS = 8  # values kept of a token's code


def golden_path(kind: str) -> Path:
    return HERE / f"{kind}.json"


def describe(model: nn.Module) -> dict[str, Any]:
    """A model in numbers; `shapes_sha256` is over the sorted lines `key: d0,d1,...` of its state dict."""
    state = model.state_dict()
    lines = sorted(f"{key}: {','.join(map(str, value.shape))}" for key, value in state.items())
    return {
        "keys": len(state),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "numel_in_file": sum(value.numel() for value in state.values()),
        "shapes_sha256": hashlib.sha256("\n".join(lines).encode()).hexdigest(),
    }


def token_codes(table: Tensor, grid: tuple[int, int, int]) -> dict[str, list[float]]:
    """Eight values, spread over the width, of the first token, the last, and the one at t=1, h=2, w=3."""
    frames, rows, columns = grid
    tokens = {"first": 0, "inner": (rows + 2) * columns + 3, "last": frames * rows * columns - 1}
    channels = torch.arange(CHANNELS) * table.shape[1] // CHANNELS
    return {name: [round(value, 6) for value in table[row, channels].tolist()] for name, row in tokens.items()}


def make_golden(kind: str) -> dict[str, Any]:
    official = OFFICIAL[kind]
    with torch.device("meta"):
        transformer = CogVideoXTransformer3DModel(**official.transformer)
        vae = AutoencoderKLCogVideoX(**official.vae)
    alphas = CogVideoXDDIMScheduler(**official.scheduler).alphas_cumprod
    grid, tables = _position_tables(official.transformer)
    return {
        "made_by": "tests/golden/make_golden.py, from diffusers",
        "transformer": describe(transformer),
        "vae": describe(vae),
        "scaling_factor": vae.config["scaling_factor"],
        "alphas": {str(timestep): float(f"{alphas[timestep].item():.9g}") for timestep in TIMESTEPS},
        "grid": list(grid),
        "positions": {name: token_codes(table, grid) for name, table in tables.items()},
    }


def _position_tables(config: dict[str, Any]) -> tuple[tuple[int, int, int], dict[str, Tensor]]:
    """Token grid (T, H, W) of the size people ask for, and the computed tables over it; one row per token."""
    if config.get("patch_size_t"):
        grid = (11, 48, 85)  # 81 frames of 768 x 1360, the leading latent included
        cos, sin = get_3d_rotary_pos_embed(64, None, grid[1:], grid[0], grid_type="slice", max_size=(150, 150))
        return grid, {"cos": cos, "sin": sin}
    grid = (13, 30, 45)  # 49 frames of 480 x 720
    if not config["use_rotary_positional_embeddings"]:
        width = config["num_attention_heads"] * config["attention_head_dim"]
        table = get_3d_sincos_pos_embed(width, (grid[2], grid[1]), grid[0], 1.875, 1.0, output_type="pt")
        return grid, {"sincos": table.flatten(0, 1)}
    cos, sin = get_3d_rotary_pos_embed(64, ((0, 0), grid[1:]), grid[1:], grid[0])
    return grid, {"cos": cos, "sin": sin}


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the golden files of the models.")
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=", ".join(OFFICIAL))
    for kind in parser.parse_args().kinds or OFFICIAL:
        golden_path(kind).write_text(json.dumps(make_golden(kind), indent=2) + "\n", encoding="utf-8")
        print(f"{golden_path(kind).name} written")


if __name__ == "__main__":
    main()
