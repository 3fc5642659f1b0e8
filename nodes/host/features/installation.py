"""The features, installed one by one; one that fails costs itself and nothing else."""

from __future__ import annotations

import importlib
import logging
from typing import NamedTuple

logger = logging.getLogger("cogvideox")


class Feature(NamedTuple):
    """A module of this package with a function `install()`."""

    module: str
    name: str  # as the log calls it


FEATURES = (
    Feature("previews.sampling_wrapper", "live previews"),
    Feature("speed", "CogVideoX Speed"),
    Feature("lora_names", "ComfyUI's own LoRA loaders"),
    Feature("foreign_workflows", "workflows of the CogVideoX wrapper"),
)


def install_features() -> None:
    """Install every feature. One that this ComfyUI lacks something for is named in the log, with the reason."""
    for feature in FEATURES:
        try:
            importlib.import_module(f".{feature.module}", __package__).install()
        except Exception as error:  # whatever a newer or older ComfyUI, or another pack, has changed
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            logger.warning("CogVideoX goes on without %s, which do not work in this ComfyUI (%s)", feature.name, reason)
