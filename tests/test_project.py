"""The skeleton: which way imports point, what the package says of itself, and that the harness works."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.project import own_files

if TYPE_CHECKING:
    from tests.support.browser import Canvas
    from tests.support.host import Host

REPO = Path(__file__).resolve().parents[1]
CORE = REPO / "cogvideox_core"

HOST_MODULES = re.compile(r"(comfy\w*|folder_paths|latent_preview|node_helpers|nodes|server|web)$")
HEAVY_MODULES = ("accelerate", "av", "bitsandbytes", "diffusers", "transformers")
LINK = re.compile(r"\]\((?!https?://|#|mailto:)([^)#\s]+)")  # of Markdown, but for the part after a #
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:home/(?!user\b)\w+|root|Users/\w+|work/\w+)/|\b[A-Z]:\\+Users\\+\w+")


def core_imports() -> Iterator[tuple[str, ast.Import | ast.ImportFrom]]:
    """Every import statement of the core, with its file and line."""
    for path in sorted(CORE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                yield f"{path.relative_to(REPO)}:{node.lineno}", node


def absolute_modules(node: ast.Import | ast.ImportFrom) -> list[str]:
    """The modules an import names absolutely."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module] if node.level == 0 and node.module else []


# ---- imports


def test_core_imports_nothing_of_the_host():
    found = [
        f"{place} imports {module}"
        for place, node in core_imports()
        for module in absolute_modules(node)
        if HOST_MODULES.match(module.partition(".")[0])
    ]
    assert found == []


def test_core_imports_itself_relatively():
    """ComfyUI loads the pack under a path-like name, so `cogvideox_core` need not be importable by name."""
    found = [
        place
        for place, node in core_imports()
        for module in absolute_modules(node)
        if module.partition(".")[0] == "cogvideox_core"
    ]
    assert found == []


def test_relative_imports_stay_inside_core():
    depth = {}
    for place, node in core_imports():
        folders = Path(place.partition(":")[0]).parent.parts
        if isinstance(node, ast.ImportFrom) and node.level > len(folders):
            depth[place] = node.level
    assert depth == {}


def test_importing_core_loads_no_heavy_package():
    code = (
        "import json, sys, cogvideox_core; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert set(HEAVY_MODULES) & set(json.loads(result.stdout)) == set()


# ---- pages and files


def test_the_tree_in_the_readme_is_the_repositorys():
    text = (REPO / "README.md").read_text(encoding="utf-8").partition("## The tree")[2]
    tree = text.split("```")[1].strip().splitlines()
    named = {line.split()[0].rstrip("/") for line in tree if not line.startswith(" ")}
    folders = {path.relative_to(REPO).parts[0] for path in own_files() if path.parent != REPO}
    assert named == {name for name in folders if not name.startswith(".")} | {"__init__.py"}
    rooms = {line.split()[0].rstrip("/") for line in tree if line.startswith(" ")}
    of_core = [path for path in own_files() if path.is_relative_to(CORE) and path.parent != CORE]
    assert rooms == {path.relative_to(CORE).parts[0] for path in of_core}


def test_no_file_names_a_machine():
    found = []
    for path in own_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # not text
        found += [f"{path.relative_to(REPO)}: {match.group()}" for match in MACHINE_PATH.finditer(text)]
    assert found == []


def test_links_between_pages_lead_somewhere():
    """Within the repository; the help pages' own pictures are looked at by test_words.py."""
    found = []
    for page in own_files():
        if page.suffix == ".md" and not page.is_relative_to(REPO / "web"):
            for target in LINK.findall(page.read_text(encoding="utf-8")):
                if not (page.parent / target).exists():
                    found.append(f"{page.relative_to(REPO)}: {target}")
    assert found == []


@pytest.mark.parametrize("folder", ["benchmarks", "tools"])
def test_every_script_explains_itself_before_it_does_anything(folder: str):
    """`--help`, and any argument it does not know, must not start what takes minutes and writes files."""
    scripts = {path: path.read_text(encoding="utf-8") for path in (REPO / folder).glob("*.py")}
    runnable = {path.name for path, text in scripts.items() if '__name__ == "__main__"' in text}
    assert runnable
    assert runnable - {path.name for path, text in scripts.items() if "ArgumentParser(" in text} == set()


# ---- the harness


def test_host_loads_the_pack(host: Host):
    log = host.log_text()
    if "IMPORT FAILED" in log:
        pytest.fail("ComfyUI could not import the pack; its log:\n" + log, pytrace=False)
    assert any(node.startswith("CogVideoX") for node in host.object_info())


def test_host_runs_a_prompt(host: Host):
    image = {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 8, "batch_size": 1, "color": 0xFF0000}}
    save = {"class_type": "SaveImage", "inputs": {"images": ["image", 0], "filename_prefix": "harness"}}
    history = host.run({"image": image, "save": save})
    assert [path.exists() for path in history.files("save")] == [True]


def test_host_reports_a_refused_prompt(host: Host):
    from tests.support.host import PromptRejected

    with pytest.raises(PromptRejected) as refusal:
        host.run({"image": {"class_type": "NoSuchNode", "inputs": {}}})
    assert refusal.value.type == "missing_node_type"


def test_canvas_opens_without_an_error(canvas: Canvas):
    assert canvas.evaluate("() => Object.keys(LiteGraph.registered_node_types).length") > 100
    canvas.check()
