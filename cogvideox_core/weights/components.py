"""Opening a component of a model: its weights under diffusers' names, whatever form they are stored in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .config_json import parse_json
from .diffusers_folder import read_config
from .entries import OpenWeights
from .files import open_weights
from .key_names import with_diffusers_names
from .library_entries import check_method
from .packed_entries import with_packed_weights
from .recognize import Component

_V_PREDICTION_MARKER = "v_pred"  # an empty tensor that ComfyUI's ModelSave adds to v-prediction models


def open_component(path: str | Path, component: Component) -> OpenWeights:
    """The weights of a component under diffusers' names, from every form that is read; quantized ones stay quantized.

    Raises: CheckpointError as `open_weights`, or for a number format that is not read.
    """
    weights = open_weights(path)
    check_method(find_config(weights, path), path)
    weights = with_diffusers_names(with_packed_weights(weights), component)
    return weights.with_entries({key: entry for key, entry in weights.entries.items() if key != _V_PREDICTION_MARKER})


def find_config(weights: OpenWeights, path: str | Path) -> dict[str, Any] | None:
    """The config.json that came with weights, in their folder or in the file's header; None if there is none."""
    declared = read_config(path)
    if declared is None and "config" in weights.metadata:
        declared = parse_json(weights.metadata["config"], f"the config in the header of {path}")
    return declared
