"""The figures of the code are within their limits, and each measure counts what it says it counts."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests import figures
from tests.support import code_shape, patches
from tests.support.code_shape import Source


def file_of(text: str, path: str = "cogvideox_core/room/module.py") -> Source:
    return Source(Path(path), text, ast.parse(text))


def package(**modules: str) -> list[Source]:
    """Modules of one package `core`, by their names with `__` for a dot."""
    return [file_of(text, f"core/{name.replace('__', '/')}.py") for name, text in modules.items()]


def test_every_figure_is_within_its_limit():
    """`python tests/figures.py --list` names the places."""
    assert [figure.line() for figure in figures.figures() if not figure.is_met] == []


# ---- imports


def test_a_chain_counts_modules_and_goes_through_packages():
    files = [
        *package(a="from .b import x", b="from . import name", c="from . import d", d="import core.e", e=""),
        file_of("from .f import name", "core/__init__.py"),
        *package(f=""),
    ]
    assert code_shape.longest_chain(files) == ["core.a", "core.b", "core", "core.f"]


def test_imports_of_functions_and_of_the_type_checker_make_no_chain():
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .b import x\ndef f():\n    from .b import x\n"
    assert code_shape.longest_chain(package(a=text, b="")) == ["core.a"]


@pytest.mark.parametrize("text", ["try:\n    from .b import x\nfinally:\n    pass", "class A:\n    from . import b"])
def test_imports_inside_other_statements_do(text: str):
    assert code_shape.longest_chain(package(a=text, b="")) == ["core.a", "core.b"]


def test_modules_that_import_each_other_are_named():
    with pytest.raises(ValueError, match="core.a -> core.b -> core.a"):
        code_shape.longest_chain(package(a="from . import b", b="from . import a"))


# ---- shapes


@pytest.mark.parametrize(
    "text", ["x is [B, C, T, H, W].", "[B] of timesteps", "[..., K] times [N, K]", "[B, 2 C, h, w]"]
)
def test_a_shape_in_brackets_is_one(text: str):
    (node,) = ast.parse(f'def f():\n    """{text}"""').body
    assert isinstance(node, ast.FunctionDef)
    assert code_shape.states_a_shape(node)


@pytest.mark.parametrize(
    "text", ["in [0, 1]", "in [-1, 1]", "a list[Tensor]", "see [the page](docs/vae.md)", "a Tensor"]
)
def test_a_range_a_type_and_a_link_are_none(text: str):
    (node,) = ast.parse(f'def f():\n    """{text}"""').body
    assert isinstance(node, ast.FunctionDef)
    assert not code_shape.states_a_shape(node)


def test_the_functions_that_need_a_shape():
    text = """
class Module:
    def forward(self, x: Tensor): ...
    def __call__(self) -> list[Tensor]: ...
    def __init__(self, x: Tensor): ...
    def _inner(self, x: Tensor): ...
class _Own:
    def forward(self, x: Tensor): ...
def give() -> "torch.Tensor | None":
    def inside(x: Tensor): ...
def take(*parts: Tensor, scale: float): ...
def other(x: QuantizedTensor): ...
"""
    found = [one.place.partition(" ")[2] for one in code_shape.tensor_functions([file_of(text)])]
    assert found == ["Module.forward", "Module.__call__", "give", "take"]


# ---- functions, comprehensions, repeats


def test_parameters_are_counted_without_self():
    text = """
class A:
    def f(self, a, b, *, c): ...
    def g(a, b, c, d): ...
def h(a, b, /, *rest, c, **more): ...
"""
    assert [place.partition(" ")[2] for place in code_shape.long_signatures([file_of(text)], 3)] == ["A.g"]


def test_a_body_is_counted_without_signature_docstring_and_blank_lines():
    signature, docstring = "def f(\n    a,\n):\n", '    """Doc.\n\n    More.\n    """\n'
    text = signature + docstring + "    x = [\n\n        a,  # why\n    ]\n    # why\n    return x\n"
    assert list(code_shape.body_lengths([file_of(text)]).values()) == [5]


@pytest.mark.parametrize(("values", "expected"), [(range(1, 101), 95), (range(1, 11), 10), ([7], 7), ([], 0)])
def test_the_percentile(values: range | list[int], expected: int):
    assert code_shape.percentile(values, 0.95) == expected


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("[x for x in a]", 0),
        ("[x for x in a if x]\n[y for y in b]", 0),
        ("[x for y in a for x in y]", 1),
        ("[[x for x in y] for y in a]", 1),
        ("{x: {y: [z for z in y] for y in x} for x in a}", 2),
        ("sum(x for x in sorted(y for y in a))", 1),
    ],
)
def test_comprehensions_inside_comprehensions(text: str, count: int):
    assert len(code_shape.nested_comprehensions([file_of(text)])) == count


def test_a_window_that_occurs_twice_is_a_repeat():
    window = [f"x{number} = {number}" for number in range(code_shape.WINDOW)]
    once = file_of("\n".join([*window, "other = 1"]), "a.py")
    again = file_of("\n".join(["def f():", *(f"    {line}\n\n    # a comment" for line in window)]), "b.py")
    places, count = code_shape.repeats([once, again])
    assert (len(places), count) == (2 * code_shape.WINDOW, 2 * code_shape.WINDOW + 2)
    shorter = file_of("\n".join(window[1:]), "c.py")
    assert code_shape.repeats([once, shorter])[0] == []


# ---- tests by name


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("cogvideox_core/models/vae/tiling.py", "tests/core/models/vae/test_tiling.py"),
        ("cogvideox_core/demo/__init__.py", "tests/core/test_demo.py"),
        ("cogvideox_core/__init__.py", "tests/core/test_cogvideox_core.py"),
        ("cogvideox_core/training/__main__.py", "tests/core/training/test_main.py"),
    ],
)
def test_where_the_tests_of_a_module_are(module: str, expected: str):
    assert figures.test_file(Path(module)) == Path(expected)


def test_a_module_without_tests_is_named(tmp_path: Path):
    files = [
        file_of('"""Words."""', "cogvideox_core/room/__init__.py"),
        file_of("x = 1", "cogvideox_core/room/tested.py"),
        file_of("x = 1", "cogvideox_core/room/untested.py"),
        file_of("x = 1", "cogvideox_core/room/empty.py"),
    ]
    folder = tmp_path / "tests" / "core" / "room"
    folder.mkdir(parents=True)
    (folder / "test_tested.py").write_text('"""Words."""\n\ndef test_it():\n    assert 1 + 1 == 2\n')
    (folder / "test_empty.py").write_text('"""Words alone."""\n')
    found = figures.without_tests(tmp_path, files)
    assert [place.partition(" ")[0] for place in found] == [
        "cogvideox_core/room/untested.py",
        "cogvideox_core/room/empty.py",
    ]


def test_every_module_excused_from_tests_is_there():
    assert [path for path in figures.WITHOUT_TESTS if not (figures.REPO / path).is_file()] == []


# ---- patches


def test_every_change_of_another_package_is_allowed_and_every_allowed_one_is_there():
    files = code_shape.sources(figures.REPO, figures.CORE, figures.NODES)
    found = [*patches.patches(files), *patches.script_patches(figures.REPO, figures.SCRIPTS)]
    assert found == sorted(patches.ALLOWED)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("import comfy.lora\ncomfy.lora.keys = ours", "comfy.lora.keys"),
        ("import torch\ntorch.backends.cudnn.allow_tf32 = True", "torch.backends.cudnn.allow_tf32"),
        ("from comfy.a import TABLE\nTABLE['x'] = 1", "TABLE['x']"),
        ("def f():\n    from comfy import sd\n    sd.VAE, x = ours, 1", "sd.VAE"),
        ("import comfy\nsetattr(comfy, name, ours)", "setattr(comfy, ...)"),
        ("import sys\nsys.modules['nodes'] = ours", "sys.modules['nodes']"),
        ("made.__class__ = Other", "made.__class__"),
        ("block.forward = faster", "block.forward"),
        ("from types import FunctionType\nFunctionType(code, {})", "FunctionType(...)"),
        ("import logging\nlogging.getLogger('bitsandbytes').setLevel(50)", "getLogger('bitsandbytes')"),
        (
            "import comfy.sd\nclass Ours(comfy.sd.VAE):\n    def __init__(self):\n        self.x = 1",
            "Ours.__init__ without comfy.sd.VAE's",
        ),
    ],
)
def test_a_change_of_another_package_is_found(text: str, what: str):
    assert patches.patches([file_of(text)]) == [f"cogvideox_core/room/module.py: {what}"]


@pytest.mark.parametrize(
    "text",
    [
        "from .ours import thing\nthing.name = 1",
        "self.forward = faster",
        "import os\nos.environ['X'] = '1'",
        "import logging\nlogging.getLogger('cogvideox.vae').info('x')",
        "import torch\nx = torch.nn.Tanh()\nx.weight = y",
        "import comfy.sd\nclass Ours(comfy.sd.VAE):\n    def __init__(self):\n        super().__init__()",
    ],
)
def test_what_is_ours_is_no_change_of_another_package(text: str):
    assert patches.patches([file_of(text)]) == []


def test_scripts_that_change_the_frontend_are_found(tmp_path: Path):
    (tmp_path / "a.js").write_text(
        "nodeType.prototype.onDrawn = f\napp.graph.x = 1\nif (app.graph.x == 1) node.y = 2\n"
    )
    assert patches.script_patches(tmp_path, ".") == ["a.js: .prototype.onDrawn", "a.js: app.graph.x"]
