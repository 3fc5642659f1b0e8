"""Subcommands about files: inspect weights, convert them, fit the colours of live previews."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from ..videos.preview_colours import fit_latent_rgb, write_latent_rgb
from ..videos.video_io import read_video
from ..weights.convert import FORMS, convert
from ..weights.diffusers_folder import component_path
from ..weights.dtypes import named_dtype
from ..weights.inspect import inspect, report
from ..weights.load import load_vae
from ..weights.places.names import locate
from ..weights.recognize import COMPONENTS

_SCENES = 64  # of the demo world, where no video is given
_FRAMES, _SIDE = 49, 256  # of each video: as many frames, and pixels on the short side, as are looked at


def _add_inspect(parser: ArgumentParser) -> None:
    parser.description = "Say what weights are, in which form, and whether they are complete. Reads headers only."
    parser.add_argument("paths", metavar="PATH", nargs="+", help="weight file, component's folder or whole folder")


def _inspect(options: Namespace) -> str:
    found = chain.from_iterable(map(inspect, map(locate, options.paths)))
    return "\n".join(map(report, found))


def _add_convert(parser: ArgumentParser) -> None:
    forms = "; ".join(f"{name}: {form.description}" for name, form in FORMS.items())
    parser.description = f"Write weights in another form, tensor by tensor. {forms}."
    parser.add_argument("source", metavar="IN", help="weight file or component's folder, in any form that is read")
    parser.add_argument("target", metavar="OUT", help="file or folder to make")
    parser.add_argument("--to", required=True, metavar="FORM", help=", ".join(FORMS))
    parser.add_argument(
        "--component",
        choices=COMPONENTS,
        help="of several in a file or a whole folder (default: the transformer)",
    )
    parser.add_argument("--dtype", metavar="D", help="of the weights that are not quantized (default: as they are)")


def _convert(options: Namespace) -> str:
    dtype = None if options.dtype is None else named_dtype(options.dtype)
    with ExitStack() as bars:
        bar: tqdm | None = None  # made when there is something to do, so that a refusal is printed without it

        def progress(done: int, total: int) -> None:
            nonlocal bar
            if bar is None:
                bar = bars.enter_context(
                    tqdm(total=total, desc="converting", unit="B", unit_scale=True, file=sys.stderr, leave=False)
                )
            bar.update(done - bar.n)

        source, target, form, component = locate(options.source), options.target, options.to, options.component
        return str(convert(source, target, form, component=component, dtype=dtype, progress=progress))


def _add_fit_preview(parser: ArgumentParser) -> None:
    parser.description = (
        "Fit the colours of live previews to a VAE and write them into its folder. Videos like those the model makes "
        "are best; a dozen is enough."
    )
    parser.add_argument("folder", metavar="FOLDER", help="whole CogVideoX folder in diffusers' layout, or its VAE's")
    parser.add_argument("videos", metavar="VIDEO", nargs="*", help="default: the small world of the demo model")


def _fit_preview(options: Namespace) -> str:
    folder = component_path(locate(options.folder, "vae"), "vae")
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file; give the folder with the VAE's config.json, where they are written")
    vae = load_vae(folder, dtype=torch.float32)
    multiple = vae.config.spatial_compression_ratio
    clips = (_shown(path, multiple) for path in options.videos) if options.videos else _scenes()
    source = f"{len(options.videos)} videos" if options.videos else f"{_SCENES} scenes of the demo world"
    rgb, quality = fit_latent_rgb(vae, clips)
    file = write_latent_rgb(rgb, folder, fitted_to=source, r_squared=round(quality, 4))
    return f"{file}: R^2 {quality:.3f} over {source}"


def _scenes() -> Iterator[Tensor]:
    from ..training.demo_world.world import make_scene, render  # of the demo world, which nothing else here needs

    return (render(make_scene(seed))[None] for seed in range(_SCENES))


def _shown(path: str, multiple: int) -> Tensor:
    """The beginning of a video, resized: [1, 3, F, H, W] in [0, 1]; F is 8n + 1, H and W divide by `multiple`."""
    video, _ = read_video(Path(path), max_frames=_FRAMES)
    frames = video[0, :, : (video.shape[2] - 1) // 8 * 8 + 1].transpose(0, 1)
    shrink = min(1.0, _SIDE / min(frames.shape[2:]))
    height, width = (max(1, round(side * shrink / multiple)) * multiple for side in frames.shape[2:])
    frames = functional.interpolate(frames, (height, width), mode="bilinear", antialias=True)
    return frames.transpose(0, 1)[None].clamp(0, 1)


COMMANDS: dict[str, tuple[Callable[[ArgumentParser], None], Callable[[Namespace], str]]] = {
    "inspect": (_add_inspect, _inspect),
    "convert": (_add_convert, _convert),
    "fit-preview": (_add_fit_preview, _fit_preview),
}
"""For each subcommand: what adds its arguments, and what runs it and returns the text to print."""
