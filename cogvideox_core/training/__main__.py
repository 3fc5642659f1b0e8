"""python -m cogvideox_core.training RECIPE FOLDER: train, in one process or, under `accelerate launch`, in many."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .clips import FolderClips
from .demo_world.clips import WorldClips
from .loop import train
from .recipe import find_recipe, parse_recipe
from .run_folder import RunExistsError, RunFolder
from .stages import Places, make_objective

BAD_INPUT = 2


def main(arguments: list[str] | None = None) -> int:
    """Run the command. Returns: 0, or 2 for what does not fit, told in a sentence on stderr."""
    parser = argparse.ArgumentParser("python -m cogvideox_core.training", description=__doc__)
    parser.add_argument("recipe", help="a JSON file, or the name of one in cogvideox_core/training/recipes")
    parser.add_argument("folder", type=Path, help="of the run: log, state, and the model in the official layout")
    parser.add_argument("--model", type=Path, help="folder of the model whose parts the recipe does not make anew")
    parser.add_argument(
        "--clips", type=Path, help="folder of videos with captions (default: the demo's rendered world)"
    )
    parser.add_argument("--latents", type=Path, help="where encoded clips are kept (default: latents/ in the folder)")
    parser.add_argument("--resume", action="store_true", help="go on from the last save of the run in the folder")
    parser.add_argument(
        "--mixed-precision", choices=("no", "bf16"), default="no", help="of forward and backward passes"
    )
    parser.add_argument(
        "--compile", action="store_true", help="compile the transformer's blocks: a minute's wait, then faster steps"
    )
    parser.add_argument("--cpu", action="store_true", help="leave the GPU alone")
    options = parser.parse_args(arguments)
    try:
        _train(options)
    except (ValueError, OSError, RunExistsError, FloatingPointError) as error:
        print(f"training: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("training: interrupted; go on with --resume", file=sys.stderr)
        return 130
    return 0


def _train(options: argparse.Namespace) -> None:
    from accelerate import Accelerator

    values = find_recipe(options.recipe)
    recipe = parse_recipe(values)
    clips = WorldClips() if options.clips is None else FolderClips(options.clips)
    accelerator = Accelerator(cpu=options.cpu, mixed_precision=options.mixed_precision)
    run = RunFolder(options.folder, values, resume=options.resume, writer=accelerator.is_main_process)
    places = Places(options.model, options.latents or options.folder / "latents", options.folder)
    with accelerator.main_process_first():
        objective = make_objective(recipe, clips, places)
    if options.compile:
        objective.compile_blocks()
    train(objective, recipe.optimisation, run, accelerator)


if __name__ == "__main__":
    sys.exit(main())
