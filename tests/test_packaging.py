"""What is installed: one version everywhere, true requirements, and a wheel that holds all that the code reads."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import cogvideox_core
from tests import provision
from tests.support.project import own_files, pyproject

PROJECT = pyproject()["project"]
CORE = provision.REPO / "cogvideox_core"
BY_NAME = {  # packages that nobody needs to have
    "flash-attn": "an attention backend",
    "sageattention": "an attention backend",
    "triton": "comes with PyTorch where there are kernels to write",
}
REQUIREMENTS = [Requirement(line) for line in PROJECT["dependencies"]]
EXTRAS = {name: [Requirement(line) for line in lines] for name, lines in PROJECT["optional-dependencies"].items()}


def names(requirements: list[Requirement]) -> set[str]:
    return {canonicalize_name(requirement.name) for requirement in requirements}


# ---- the version


def test_the_version_is_that_of_pyproject():
    assert cogvideox_core.__version__ == PROJECT["version"]
    assert "dynamic" not in PROJECT, "ComfyUI's manager and registry read the version there"


def test_the_version_fits_comfyuis_registry():
    assert re.fullmatch(r"\d+\.\d+\.\d+(-[a-zA-Z0-9]+)?", PROJECT["version"])


def test_the_command_line_says_the_version():
    command = [sys.executable, "-m", "cogvideox_core", "--version"]
    printed = subprocess.run(command, cwd=provision.REPO, capture_output=True, text=True, check=True).stdout
    assert printed.split()[-1] == PROJECT["version"]


# ---- requirements


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=str)
def test_a_requirement_has_a_floor_and_no_ceiling(requirement: Requirement):
    """A pack that pins what ComfyUI needs too breaks other people's installations; one without a floor, our own."""
    assert [specifier.operator for specifier in requirement.specifier] == [">="]


def test_optional_packages_are_optional():
    assert {"accelerate", "bitsandbytes", "diffusers", "gguf"} & names(REQUIREMENTS) == set()
    assert {"accelerate", "diffusers"} <= names(EXTRAS["train"])


def test_all_that_is_imported_is_required():
    """Every package the core imports, wherever in a file, is a requirement, of an extra, or chosen by name."""
    known = names(REQUIREMENTS).union(*map(names, EXTRAS.values()))
    assert imported_packages(CORE.rglob("*.py")) - known == set(BY_NAME)


@pytest.mark.comfy
def test_what_the_nodes_need_comes_with_comfyui_or_is_in_requirements_txt():
    """requirements.txt lists what loading the pack needs and ComfyUI does not, and nothing else."""
    host = provision.comfyui()
    with_comfyui, ours = listed(host / "requirements.txt"), listed(provision.REPO / "requirements.txt")
    packs = [*(provision.REPO / "nodes").rglob("*.py"), *CORE.rglob("*.py")]
    apart = {"training", "cli"}  # not loaded by the nodes
    loaded = [path for path in packs if not apart & set(path.relative_to(provision.REPO).parts)]
    of_comfyui = {canonicalize_name(path.stem) for path in host.iterdir()}
    needed = imported_packages(loaded, at_import=True) - of_comfyui
    assert needed - with_comfyui - ours - set(BY_NAME) == set()
    assert ours & with_comfyui == set()


def listed(path: Path) -> set[str]:
    """The packages of a requirements.txt."""
    lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return {canonicalize_name(Requirement(line).name) for line in lines if line}


def imported_packages(paths, at_import: bool = False) -> set[str]:
    """The packages of other people that files import; with `at_import`, not those of functions."""
    packages = metadata.packages_distributions()
    found = set()
    for path in paths:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body if at_import else ast.walk(tree):
            found.update(packages.get(module, [module])[0] for module in absolute_modules(node))
    return {canonicalize_name(name) for name in found}


def absolute_modules(node: ast.AST) -> list[str]:
    """The top packages an import names absolutely, without the standard library's."""
    modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
    if isinstance(node, ast.ImportFrom) and node.level == 0:
        modules = [node.module or ""]
    tops = [module.partition(".")[0] for module in modules]
    return [top for top in tops if top not in sys.stdlib_module_names]


# ---- the wheel


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the wheel of this checkout is installed, without what it requires."""
    folder = tmp_path_factory.mktemp("installed")
    source = tmp_path_factory.mktemp("source") / "cogvideox-nodes"
    for path in own_files():  # a clean tree: nothing of earlier builds
        name = path.relative_to(provision.REPO)
        if name.parts[0] == "cogvideox_core" or len(name.parts) == 1:
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes(path.read_bytes())
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--target", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(source)], check=True)
    return folder


def test_the_wheel_holds_every_file_of_the_core(installed: Path):
    expected = [path.relative_to(provision.REPO) for path in own_files() if path.is_relative_to(CORE)]
    assert len(expected) > 100
    assert [name.as_posix() for name in expected if not (installed / name).is_file()] == []
    assert sorted(path.name for path in installed.iterdir() if path.suffix != ".dist-info") == ["bin", "cogvideox_core"]


def test_the_wheel_has_the_same_version_and_makes_a_video(installed: Path, tmp_path: Path):
    code = f"""
import sys
sys.path.insert(0, {str(installed)!r})
import json
from importlib import metadata
import cogvideox_core
video = cogvideox_core.load_pipeline(device="cpu")(
    "a red ball bouncing in front of a meadow", num_inference_steps=1, num_frames=9, height=32, width=48
)
versions = [cogvideox_core.__version__, metadata.version("cogvideox-nodes")]
print(json.dumps([cogvideox_core.__file__, versions, list(video.shape)]))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    file, versions, shape = json.loads(done.stdout)
    assert Path(file).is_relative_to(installed)
    assert versions == [PROJECT["version"]] * 2
    assert shape == [1, 3, 9, 32, 48]


def test_the_wheel_declares_what_pyproject_says(installed: Path):
    (folder,) = installed.glob("*.dist-info")
    package = metadata.Distribution.at(folder)
    assert package.metadata["Requires-Python"] == PROJECT["requires-python"]
    assert {entry.name: entry.value for entry in package.entry_points} == PROJECT["scripts"]
    required = [Requirement(line) for line in package.requires or []]
    assert names([line for line in required if line.marker is None]) == names(REQUIREMENTS)


def test_the_shell_command_leads_to_a_function():
    for target in PROJECT["scripts"].values():
        assert callable(metadata.EntryPoint("command", target, "console_scripts").load())


def test_the_tools_check_for_the_oldest_promised_python():
    floor = PROJECT["requires-python"].removeprefix(">=")
    tools = pyproject()["tool"]
    assert tools["ruff"]["target-version"] == "py" + floor.replace(".", "")
    assert tools["pyright"]["pythonVersion"] == floor
