"""What the loaders offer: files and diffusers folders in ComfyUI's model folders, and the demo models and their LoRA.

A choice is looked up in the list as it is now: a name that is not in it leads nowhere. What a name is, and how a list
is made, is in `cogvideox_core/weights/places/listing.py`.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import folder_paths

from ....cogvideox_core.demo import DEMO_LORAS, DEMO_MODELS
from ....cogvideox_core.weights.places.comfyui import from_home
from ....cogvideox_core.weights.places.hub_cache import readable_name
from ....cogvideox_core.weights.places.listing import Found, models_in
from ....cogvideox_core.weights.recognize import Component

# The demo models by the names the lists show; both have the same VAE and text encoder.
_DEMO: dict[Component, Found] = {
    "transformer": {f"demo/{task}": path for task, path in DEMO_MODELS.items()},
    "vae": {"demo": DEMO_MODELS["text-to-video"]},
    "text_encoder": {"demo": DEMO_MODELS["text-to-video"]},
}
_DEMO_LORAS: Found = {f"demo/{name}": path for name, path in DEMO_LORAS.items()}


def choices(component: Component) -> Found:
    """Names and paths of everything that may hold this component, the demo models first."""
    return models_in(_roots, component, first=_DEMO[component])


def lora_choices() -> Found:
    """Names and paths of LoRA files, the demo's first."""
    return models_in(_roots, "lora", first=_DEMO_LORAS)


def chosen(component: Component, name: str) -> Path:
    """The path of a choice. Raises: ValueError if it is not in the list (any more)."""
    return _looked_up(name, choices(component), "models")


def chosen_lora(name: str) -> Path:
    """The path of a LoRA. Raises: ValueError if it is not in the list (any more)."""
    return _looked_up(name, lora_choices(), "LoRAs")


def fault_of(component: Component | None, name: str) -> str | None:
    """Why a choice leads nowhere, in a sentence; None if it does not. No component means a LoRA.

    ComfyUI leaves the check to a node that asks for it, which lets a workflow from Windows in, whose names have
    backslashes.
    """
    try:
        if component is None:
            chosen_lora(name)
        else:
            chosen(component, name)
    except ValueError as error:
        return str(error)
    return None


def _looked_up(name: str, found: Found, what: str) -> Path:
    posix = name.replace("\\", "/")
    path = found.get(name) or found.get(posix) or found.get(readable_name(PurePosixPath(posix)))
    if path is None:
        raise ValueError(
            f"{name!r} is not among the {what}; put the file into its folder and press R, or choose another"
        )
    return path


def _roots(name: str) -> list[Path]:
    """The folders of that name: ComfyUI's and those of extra_model_paths.yaml; else the one in its models folder."""
    if name in folder_paths.folder_names_and_paths:
        roots = folder_paths.get_folder_paths(name)
    else:
        roots = [os.path.join(folder_paths.models_dir, name)]
    return [root for root in map(from_home, roots) if root.is_dir()]
