"""What the pack relies on in ComfyUI: the list is whole, and the ComfyUI at hand (or COMFYUI_PATH) has all of it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests import provision
from tests.support import comfyui_uses
from tests.support.comfyui_uses import DOCUMENTED, host_modules, imported_symbols, inherited_symbols, received_symbols

NODES = provision.REPO / "nodes"


@pytest.fixture(scope="module")
def table(pack: ModuleType) -> ModuleType:
    """The table alone: importing the nodes may need the very symbol that is gone."""
    specification = importlib.util.spec_from_file_location("comfyui_symbols", NODES / "host" / "comfyui_symbols.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def listed(table: ModuleType) -> set[str]:
    return {f"{owner}.{name}" for owner, names in table.SYMBOLS.items() for name in names}


def used(pack: ModuleType) -> Iterator[tuple[str, str]]:
    """Every symbol of ComfyUI that the pack uses, with the place."""
    hosts = host_modules(provision.comfyui())
    for path in sorted(NODES.rglob("*.py")):
        found = list(imported_symbols(path, hosts))
        parts = path.relative_to(provision.REPO).with_suffix("").parts
        if "host" in parts:
            module = importlib.import_module(".".join([pack.__name__, *parts]).removesuffix(".__init__"))
            found += [*received_symbols(path), *inherited_symbols(module, hosts)]
        for symbol, line in found:
            if not symbol.startswith(DOCUMENTED):
                yield symbol, f"{path.relative_to(provision.REPO)}:{line}"


def test_this_comfyui_has_every_symbol(pack: ModuleType, listed: set[str]) -> None:
    gone = comfyui_uses.missing(sorted(listed))
    assert not gone, "\n".join(["gone from this ComfyUI:", *gone])


def test_this_comfyui_looks_for_every_key(table: ModuleType) -> None:
    gone = []
    for file, keys in table.KEYS.items():
        path = provision.comfyui() / file
        source = path.read_text(encoding="utf-8") if path.is_file() else ""
        gone += [f"{key} in {file}" for key in keys if key not in source]
    assert not gone, "\n".join(["gone from this ComfyUI:", *gone])


def test_every_use_is_listed(pack: ModuleType, listed: set[str]) -> None:
    owners = {symbol.rpartition(".")[0] for symbol in listed}  # `from comfy_api import feature_flags` names an owner
    found = [f"{symbol} at {place}" for symbol, place in used(pack) if symbol not in listed | owners]
    assert found == []


def test_what_is_listed_is_used(pack: ModuleType, listed: set[str]) -> None:
    symbols = {symbol for symbol, _ in used(pack)}
    text = "".join(path.read_text(encoding="utf-8") for path in NODES.rglob("*.py") if "symbols" not in path.name)
    assert [symbol for symbol in sorted(listed - symbols) if symbol.rpartition(".")[2] not in text] == []


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ("comfy.model_patcher.ModelPatcher.cloned", "ModelPatcher has no cloned"),
        ("comfy.model_patcher.ModelPatcher.cached_patcher_inits", "ModelPatcher has no cached_patcher_inits"),
        ("comfy.model_management.unet_dtypes", "comfy.model_management has no unet_dtypes"),
        ("latent_previews.prepare_callback", "no module latent_previews"),
    ],
)
def test_a_symbol_that_is_gone_is_named(pack: ModuleType, gone: str, said: str) -> None:
    assert comfyui_uses.missing([gone]) == [f"{gone} ({said})"]


def test_a_use_that_is_not_listed_is_found(pack: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "new.py"
    file.write_text(
        "import comfy.utils\nfrom comfy.sd import load_clip\nmm, size = comfy.model_management, 1\n"
        "def use(patcher, clone):\n    return mm.free_memory(size), patcher.unpatch_model(), comfy.utils.tiled_scale\n"
    )
    hosts = host_modules(provision.comfyui())
    found = {symbol for symbol, _ in [*imported_symbols(file, hosts), *received_symbols(file)]}
    assert found == {
        "comfy.sd.load_clip",
        "comfy.model_management.free_memory",
        "comfy.model_patcher.ModelPatcher.unpatch_model",
        "comfy.utils.tiled_scale",
    }
