"""Reading checkpoints: files, what they are, and models from them."""

from . import layers
from .declared import read_json
from .detect import find_variant, transformer_config, vae_config
from .dtypes import named_dtype, weights_dtype
from .errors import CheckpointError
from .files import open_weights
from .folder import component_path, folder_variant, pipeline_folder, read_config
from .kinds import expect_kind, recognise
from .load import (
    TransformerWeights,
    VAEWeights,
    check_fit,
    fill,
    load_transformer,
    load_vae,
    open_component,
    read_transformer,
    read_vae,
)
from .tensors import Weights

__all__ = [
    "CheckpointError",
    "TransformerWeights",
    "VAEWeights",
    "Weights",
    "check_fit",
    "component_path",
    "expect_kind",
    "fill",
    "find_variant",
    "folder_variant",
    "layers",
    "load_transformer",
    "load_vae",
    "named_dtype",
    "open_component",
    "open_weights",
    "pipeline_folder",
    "read_config",
    "read_json",
    "read_transformer",
    "read_vae",
    "recognise",
    "transformer_config",
    "vae_config",
    "weights_dtype",
]
