"""The features, installed one by one; one that fails costs itself and nothing else."""

from __future__ import annotations

import importlib
import logging
from typing import NamedTuple

logger = logging.getLogger("cogvideox")


class Feature(NamedTuple):
    """A module of this package with a function `install()`."""

    module: str
    name: str  # what there is not without it, for the log


FEATURES = (
    Feature("previews.sampling_wrapper", "live previews"),
    Feature("speed", "approximations by CogVideoX Speed"),
    Feature("lora_names", "CogVideoX names in ComfyUI's own LoRA loaders"),
    Feature("foreign_workflows", "conversion of the CogVideoX wrapper's workflows"),
)


def install_features() -> None:
    """Install every feature. One that this ComfyUI has not all it needs for is named in the log, with the reason."""
    for feature in FEATURES:
        try:
            importlib.import_module(f".{feature.module}", __package__).install()
        except Exception as error:  # whatever a newer or older ComfyUI, or another pack, has changed
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            logger.warning("no %s in this ComfyUI (%s); all nodes of CogVideoX are there", feature.name, reason)
