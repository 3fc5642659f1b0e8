"""The pack imported into this process."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

from tests import provision

PACK_MODULE = "cogvideox_pack"


def load_pack() -> ModuleType:
    """The pack as a package in this process, with ComfyUI's modules importable, on the CPU.

    `importlib.import_module(f"{pack.__name__}.nodes.loaders")`, say. ComfyUI comes first on the path: its `nodes`
    is a module, ours a folder, and `python -m pytest` puts the repository on the path.
    """
    sys.path.insert(0, str(provision.comfyui()))
    from comfy.cli_args import args  # pyright: ignore[reportMissingImports]

    args.cpu = True  # read when comfy.model_management is imported
    specification = importlib.util.spec_from_loader(PACK_MODULE, loader=None, is_package=True)
    assert specification is not None
    module = importlib.util.module_from_spec(specification)
    module.__path__ = [str(provision.REPO)]
    sys.modules[PACK_MODULE] = module
    return module
