"""The demo world and the rest of training are imported by what trains, and by nothing that makes videos."""

from __future__ import annotations

from tests import provision
from tests.support import code_shape


def test_nothing_outside_of_training_imports_it() -> None:
    """Only when it is called, `cogvideox fit-preview` renders scenes of the demo world."""
    files = code_shape.sources(provision.REPO, "cogvideox_core", "nodes")
    modules = {source.module for source in files}
    training = "cogvideox_core.training"
    importers = [
        source.module
        for source in files
        if not code_shape.in_module(source.module, [training])
        and any(code_shape.in_module(module, [training]) for module in code_shape.imported_modules(source, modules))
    ]
    assert importers == []
