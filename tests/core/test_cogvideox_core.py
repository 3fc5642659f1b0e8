"""The package as a whole: its public names, and that importing it imports no room that is not asked for."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib import import_module

import pytest

import cogvideox_core
from tests.provision import REPO
from tests.support import code_shape


def imported_by(statement: str) -> set[str]:
    """Modules that a new process has after a statement."""
    script = f"{statement}\nimport sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=REPO, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_imports_no_room_and_no_torch() -> None:
    modules = imported_by("import cogvideox_core")
    assert [name for name in modules if name.startswith("cogvideox_core.")] == []
    assert "torch" not in modules


def test_making_videos_needs_neither_training_nor_the_command_line_nor_diffusers() -> None:
    modules = imported_by("from cogvideox_core import load_pipeline, write_video")
    rooms = {name.split(".")[1] for name in modules if name.startswith("cogvideox_core.")}
    assert rooms == {"demo", "kernels", "models", "pipeline", "sampling", "videos", "weights"}
    assert not {"diffusers", "transformers", "accelerate", "bitsandbytes", "av"} & modules


def test_rooms_import_only_rooms_below_them_in_the_table_of_contributing() -> None:
    """Imports at the top of a module; what the command line imports when it is asked for does not count."""
    table = re.findall(r"^\| `(\w+)/` \|", (REPO / "CONTRIBUTING.md").read_text("utf-8"), re.MULTILINE)
    core = REPO / "cogvideox_core"
    rooms = [name for name in table if (core / name).is_dir()]
    assert sorted(rooms) == sorted(path.name for path in core.iterdir() if (path / "__init__.py").is_file())
    upwards = []
    for source in code_shape.sources(REPO, "cogvideox_core"):
        _, *folders, _ = source.path.parts
        for statement in source.tree.body if folders else ():
            if isinstance(statement, ast.ImportFrom) and statement.level == len(folders) + 1:
                other = (statement.module or "").partition(".")[0]
                if other in rooms and rooms.index(other) < rooms.index(folders[0]):
                    upwards.append(f"{source.path} imports {other}")
    assert upwards == []


@pytest.mark.parametrize("name", cogvideox_core.__all__)
def test_a_public_name_is_what_its_module_defines(name: str) -> None:
    assert getattr(cogvideox_core, name) is getattr(import_module(f"cogvideox_core.{cogvideox_core._HOME[name]}"), name)
    assert name in dir(cogvideox_core)


def test_every_public_name_is_listed_once() -> None:
    assert sorted(cogvideox_core.__all__) == sorted(cogvideox_core._HOME)


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'no_such_name'"):
        cogvideox_core.no_such_name  # noqa: B018
