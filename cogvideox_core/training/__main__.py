"""python -m cogvideox_core.training RECIPE FOLDER: train, in one process or, under `accelerate launch`, in many."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ..weights.places.names import locate
from .recipe import find_recipe, parse_recipe
from .run_folder import RunExistsError, RunFolder

BAD_INPUT, INTERRUPTED = 2, 130


def main(arguments: list[str] | None = None) -> int:
    """Run the command. Returns: 0; 2 for input that does not fit, with a sentence on stderr; 130 if interrupted."""
    options = _parser().parse_args(arguments)
    try:
        _train(options)
    except (ValueError, OSError, RunExistsError, FloatingPointError) as error:
        print(f"training: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("training: interrupted; continue with --resume", file=sys.stderr)
        return INTERRUPTED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m cogvideox_core.training", description=__doc__)
    add = parser.add_argument
    add("recipe", help="a JSON file, or the name of one in cogvideox_core/training/recipes")
    add("folder", type=Path, help="of the training run: its log, its state, and the model in the official layout")
    add("--model", help="model folder with the parts that the recipe does not make, or its name")
    add("--clips", type=Path, help="folder of videos with captions (default: rendered clips of the demo world)")
    add("--latents", type=Path, help="folder for encoded clips (default: latents/ in the folder)")
    add("--resume", action="store_true", help="continue from the last save in the folder")
    add("--mixed-precision", choices=("no", "bf16"), default="no", help="of forward and backward passes")
    add("--compile", action="store_true", help="compile the transformer's blocks: a minute's wait, then faster steps")
    add("--cpu", action="store_true", help="do not use the GPU")
    return parser


def _train(options: argparse.Namespace) -> None:
    from accelerate import Accelerator

    from .demo_world.world_clips import WorldClips
    from .stages import Folders, folder_clips, make_objective
    from .training_loop import train

    values = find_recipe(options.recipe)
    recipe = parse_recipe(values)
    clips = WorldClips() if options.clips is None else folder_clips(options.clips, recipe)
    accelerator = Accelerator(cpu=options.cpu, mixed_precision=options.mixed_precision)
    _check_machine(options, accelerator.device)
    run = RunFolder(options.folder, values, resume=options.resume, writer=accelerator.is_main_process)
    model = None if options.model is None else locate(options.model, "transformer")
    folders = Folders(model, options.latents or options.folder / "latents", options.folder)
    with accelerator.main_process_first():
        objective = make_objective(recipe, clips, folders)
    if options.compile:
        objective.compile_blocks()
    train(objective, recipe.optimisation, run, accelerator)


def _check_machine(options: argparse.Namespace, device: Any) -> None:
    """What the options ask of the device. Raises: ValueError if it does not have that."""
    import torch

    from ..kernels.devices import dtype_fault
    from ..models.transformer.compilation import check_compiler

    if options.mixed_precision == "bf16" and (fault := dtype_fault(device, torch.bfloat16)):
        raise ValueError(f"--mixed-precision bf16 on {device}, which does not compute in it ({fault}); take no")
    if options.compile:
        check_compiler(device)


if __name__ == "__main__":
    sys.exit(main())
