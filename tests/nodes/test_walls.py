"""Which module of the pack may import what: read from the source, without starting anything."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import provision
from tests.support.comfyui_uses import DOCUMENTED, host_modules

NODES = provision.REPO / "nodes"
SCHEMAS = sorted(NODES.glob("*.py"))
FOREIGN = sorted((NODES / "foreign").rglob("*.py"))
TYPES = sorted((NODES / "host" / "types").rglob("*.py"))
PLAYER = sorted((NODES / "host" / "player").rglob("*.py"))
FEATURES = sorted((NODES / "host" / "features").rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """What a file imports anywhere in it; our own modules by their place, as "nodes.host.types.model"."""
    package = path.relative_to(provision.REPO).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else ()
            yield ".".join([*above, *(node.module or "").split(".")]).strip(".")


def found(files: list[Path], *forbidden: str) -> list[str]:
    """Imports of modules that begin with a forbidden name, as "file: module"."""
    return [
        f"{path.relative_to(provision.REPO)}: {module}"
        for path in files
        for module in imports(path)
        if any(module == name or module.startswith(f"{name}.") for name in forbidden)
    ]


def of_comfyui(files: list[Path]) -> list[str]:
    hosts = sorted(host_modules(provision.comfyui()) - {"nodes"})  # ours are called so, too
    plain = [f"{path.name}: nodes" for path in files if "\nimport nodes" in path.read_text(encoding="utf-8")]
    return plain + [place for place in found(files, *hosts) if not place.partition(": ")[2].startswith(DOCUMENTED)]


def test_the_rooms_are_where_these_tests_look():
    assert all([SCHEMAS, FOREIGN, TYPES, PLAYER, FEATURES])


def test_nodes_import_of_comfyui_its_documented_api_alone():
    assert of_comfyui(SCHEMAS) == []


def test_nodes_import_no_feature_but_where_it_is_used():
    """`installation` installs features; CogVideoX Speed imports its own when it runs."""
    assert found(SCHEMAS, "nodes.host.features", "nodes.foreign") == [
        "nodes/__init__.py: nodes.host.features.installation",
        "nodes/sampling.py: nodes.host.features.speed",
    ]
    (speed,) = [
        node
        for node in ast.parse((NODES / "sampling.py").read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and node.name == "CogVideoXSpeed"
    ]
    assert "from .host.features.speed import" in ast.unparse(speed), "not on top of the file"


def test_types_import_no_feature():
    assert found(TYPES, "nodes.host.features", "nodes.host.player", "nodes.foreign") == []


def test_the_player_imports_no_feature_and_no_type():
    assert found(PLAYER, "nodes.host.features", "nodes.host.types", "nodes.foreign") == []


def test_features_import_no_other_feature():
    """Not even the module that installs them; the files of one feature are in one folder."""
    folder = NODES / "host" / "features"
    for path in FEATURES:
        own = path.relative_to(folder).parts[0].removesuffix(".py")
        others = [module for module in imports(path) if module.startswith("nodes.host.features.")]
        assert [module for module in others if module.split(".")[3] != own] == [], path


def test_foreign_workflows_are_rewritten_without_comfyui_and_the_rest_of_the_pack():
    assert of_comfyui(FOREIGN) == []
    assert found(FOREIGN, "nodes.host") == []
    assert found(FOREIGN, "cogvideox_core") == []


@pytest.mark.parametrize("path", SCHEMAS, ids=lambda path: path.name)
def test_a_node_computes_nothing(path: Path):
    """Nodes check, translate, call one function and wrap: no tensor is made or changed in their files."""
    names = ("torch.cat", "torch.zeros", "torch.ones", "movedim", "unflatten", "expand")
    text = path.read_text(encoding="utf-8")
    assert [name for name in names if name in text] == []
