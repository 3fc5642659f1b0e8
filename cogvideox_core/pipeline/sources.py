"""Which file or folder each component of a model comes from: all from one folder, or a transformer and the rest to it.

Nothing is loaded here, and of the weights no more than names are read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ..weights.diffusers_folder import component_path, pipeline_folder
from ..weights.errors import CheckpointError
from ..weights.files import open_weights
from ..weights.places.hub_cache import download_command, repository_of
from ..weights.places.names import locate
from ..weights.recognize import COMPONENTS, Component

NO_TEXT_ENCODER = "none"
"""In place of a text encoder's path: leave it out, for prompts that are encoded already."""

# What people call a component, and where they have it if it is not in the model's folder.
_MISSING = {
    "vae": ("VAE", "the folder vae of any CogVideoX model, or its file in ComfyUI's models/vae"),
    "text_encoder": ("T5", "the folder text_encoder of any CogVideoX model, or a t5xxl file"),
}


@dataclass(frozen=True)
class Sources:
    """Where the components of a model are.

    Attributes:
        model: what was given as the model: a whole folder or something in it, a transformer's own folder, or a file.
        transformer, vae, text_encoder: the file or folder of each; None for one that is not there, or left out.
    """

    model: Path
    transformer: Path
    vae: Path | None
    text_encoder: Path | None

    @classmethod
    def find(cls, model: str | Path, vae: str | Path | None = None, text_encoder: str | Path | None = None) -> Sources:
        """The sources of a model; what is not given is looked for where the transformer is.

        Args:
            model, vae, text_encoder: paths or names, see `weights/places/names.py`. A whole folder stands for its
                component. `NO_TEXT_ENCODER` leaves the text encoder out.
        Raises: CheckpointError for what does not exist.
        """
        model = locate(model, "transformer")
        transformer = component_path(model, "transformer")
        return cls(model, transformer, _source(model, "vae", vae), _source(model, "text_encoder", text_encoder))

    @property
    def root(self) -> Path | None:
        """The whole model folder; None for a transformer that is in none."""
        return pipeline_folder(self.model)

    def require(self, *components: Component) -> None:
        """Raises: CheckpointError if one of these is not there: what is missing, and where such a file usually is."""
        missing = [name for name in components if getattr(self, name) is None]
        if not missing:
            return
        wanted = " and ".join(f"{name}=PATH ({_MISSING[name][1]})" for name in missing)
        if self.root is not None:
            name = repository_of(self.root)
            again = "download the folder again" if name is None else f"run: {download_command(name)}"
            raise CheckpointError(f"{self.root} has no folder {' and no '.join(missing)}; give {wanted}, or {again}")
        kind = "a single file with" if self.model.is_file() else "the folder of"
        what = " and ".join(_MISSING[name][0] for name in missing)
        raise CheckpointError(
            f"{self.model} is {kind} a transformer, without {what}; give {wanted}, or a whole CogVideoX folder"
        )


def _source(model: Path, component: Component, given: str | Path | None) -> Path | None:
    """Where a component is: what was given, or its folder in the whole model, or the one file that holds them all."""
    if given is not None:
        return None if given == NO_TEXT_ENCODER else component_path(locate(given, component), component)
    root = pipeline_folder(model)
    if root is not None:
        return root / component if (root / component).exists() else None
    return model if _holds(model, component) else None


def _holds(model: Path, component: Component) -> bool:
    """Whether the weights in a file, or in the folder of a training run, have a component beside their transformer."""
    keys = "\n".join(open_weights(model))
    return re.search(COMPONENTS[component].pattern, keys, re.MULTILINE) is not None
