"""What a preview shows: x0 as colours, frames of a size, and one animated file of them."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.taesd.taehv
import comfy.utils
import folder_paths
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

logger = logging.getLogger("cogvideox")

TINY_DECODER = "taecvx"  # how the names of its files begin, in models/vae_approx
_LATENT_CHANNELS = 16
_QUALITY = 70


class Painter:
    """Colours of x0: by the user's tiny decoder while there is one that works, else by the latent format's linear map.

    Args:
        latent_format: of the model, with `latent_rgb_factors` and `latent_rgb_factors_bias` for its latents.
        device: where x0 is.
        tiny: file of a tiny decoder for CogVideoX, of github.com/madebyollin/taehv.
    """

    def __init__(self, latent_format: Any, device: torch.device, tiny: Path | None = None) -> None:
        self.factors = torch.tensor(latent_format.latent_rgb_factors, device=device).T  # [3, 16]
        self.bias = torch.tensor(latent_format.latent_rgb_factors_bias, device=device)
        self.latent_format = latent_format
        self.device = device
        self.file = tiny
        self.decoder: Any = None

    def __call__(self, x0: Tensor) -> Tensor:
        """RGB of the clips of x0 [B, 16, T, h, w], which is in the model's space, side by side.

        Returns: [T, 3, h, w], or of pixels [T, 3, H, W]; as many times as large as `grid` says; about 0 to 1.
        """
        if self.file is not None:
            try:
                return self._decoded(x0, self.file)
            except Exception as error:  # whatever the file holds, and memory that is full
                logger.warning(
                    f"previews without {self.file.name}, which does not work here "
                    f"({type(error).__name__}: {_first_line(error)}); colours are computed from the latents instead"
                )
                self.file = self.decoder = None
        pixels = functional.linear(x0.movedim(1, -1).float(), self.factors, self.bias)  # [B, T, h, w, 3] in [-1, 1]
        return side_by_side((pixels.movedim(-1, 2) + 1) / 2)

    def _decoded(self, x0: Tensor, file: Path) -> Tensor:
        decoder = self.decoder = self.decoder or load_tiny_decoder(file, self.device)
        z = self.latent_format.process_out(x0).to(next(decoder.parameters()))
        clips = torch.stack([decoder.decode(one[None])[0].transpose(0, 1).float() for one in z])  # [B, T, 3, H, W]
        if not clips.isfinite().all():
            raise ArithmeticError("its pictures are not finite")
        return side_by_side(clips)


def tiny_decoder_file() -> Path | None:
    """The user's tiny decoder for CogVideoX, if there is one in models/vae_approx."""
    names = sorted(folder_paths.get_filename_list("vae_approx"))
    name = next((name for name in names if Path(name).name.startswith(TINY_DECODER)), None)
    path = None if name is None else folder_paths.get_full_path("vae_approx", name)
    return None if path is None else Path(path)


def load_tiny_decoder(file: Path, device: torch.device) -> Any:
    """ComfyUI's TAEHV with these weights, made to decode each latent frame of z to one frame.

    ComfyUI's own loader would take the file for HunyuanVideo's. Such a decoder makes four frames of a latent in two
    steps; without them, with the weights of the last frame of each step, it makes the last of the four in a quarter of
    the time.

    Source: the README of madebyollin/taehv (disabling temporal upscaling), and its TAECVX_T2I_Demo notebook, which
    divides the latents of CogVideoX1.5 by 0.7 before it decodes them: this file, unlike others of the family, takes z.
    """
    decoder = comfy.taesd.taehv.TAEHV(_LATENT_CHANNELS, decoder_time_upscale=(False, False, False))
    wanted = decoder.state_dict()
    weights: dict[str, Tensor] = dict(comfy.utils.load_torch_file(str(file), safe_load=True))  # type: ignore[arg-type]
    for name, tensor in weights.items():
        if name in wanted and tensor.ndim and len(tensor) > len(wanted[name]):
            weights[name] = tensor[-len(wanted[name]) :]
    decoder.load_state_dict(weights)
    dtype = comfy.model_management.vae_dtype(device, [torch.float16, torch.bfloat16])
    return decoder.to(device, dtype).eval()


def grid(count: int, height: int, width: int) -> tuple[int, int]:
    """In how many rows and columns so many pictures of a size fill a square best, with few places left empty."""
    shapes = [(math.ceil(count / columns), columns) for columns in range(count, 0, -1)]
    return min(shapes, key=lambda shape: (max(shape[0] * height, shape[1] * width), shape[0] * shape[1]))


def side_by_side(clips: Tensor) -> Tensor:
    """Clips [B, T, 3, h, w] as one of [T, 3, rows * h, columns * w], in the order of reading; the rest is black."""
    rows, columns = grid(len(clips), *clips.shape[3:])
    empty = clips.new_zeros(rows * columns - len(clips), *clips.shape[1:])
    cells = torch.cat([clips, empty]).unflatten(0, (rows, columns))  # [rows, columns, T, 3, h, w]
    return cells.permute(2, 3, 0, 4, 1, 5).flatten(4, 5).flatten(2, 3)


def as_frames(rgb: Tensor, height: int, width: int) -> np.ndarray:
    """Frames [T, height, width, 3], bytes in CPU memory, of rgb [T, 3, h, w] in 0 to 1: one copy, when all is done."""
    size = (height, width)
    if rgb.shape[2:] != size:
        rgb = functional.interpolate(rgb, size, mode="bilinear", antialias=rgb.shape[2] > height)
    return (rgb.clamp(0, 1) * 255).round().to(torch.uint8).movedim(1, -1).contiguous().cpu().numpy()


def fitted(height: int, width: int, limit: int) -> tuple[int, int]:
    """The size of a picture of this shape whose long side is at most `limit`."""
    shrink = min(1.0, limit / max(height, width))
    return max(1, round(height * shrink)), max(1, round(width * shrink))


def animated_webp(frames: Sequence[np.ndarray], fps: float) -> bytes:
    """Frames [H, W, 3] of bytes as an animation without end; a single one as a picture."""
    first, *others = [Image.fromarray(frame) for frame in frames]
    file = BytesIO()
    # Method 0 is the fastest; the others make files a fifth smaller in three times the time.
    animation: dict[str, Any] = {"save_all": True, "append_images": others, "duration": round(1000 / fps), "loop": 0}
    first.save(file, "WEBP", method=0, quality=_QUALITY, **(animation if others else {}))
    return file.getvalue()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0]
