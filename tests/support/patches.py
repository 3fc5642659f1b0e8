"""Where we change what belongs to another package, found in the source text, and the table of what may.

What counts: giving a value to (or deleting) something of an imported module, another class or code for an object, a
function put together from another one's code, and a subclass of theirs that leaves out their `__init__`. An attribute
of an object that another package made cannot be distinguished from one of ours without running the code; reviews look
for those.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.support.code_shape import Source, in_module

# What may be changed, as `path: what`, and why nothing else does. At most three; see tests/figures.py.
ALLOWED: dict[str, str] = {
    "cogvideox_core/weights/quantize.py: getLogger('bitsandbytes.autograd._functions')": (
        "a filter for one sentence that bitsandbytes would log thousands of times in a run"
    ),
    "nodes/host/features/lora_names.py: comfy.lora.model_lora_keys_unet": (
        "ComfyUI has no other way to tell its LoRA loaders what the files call the layers of a new model"
    ),
}

# Classes of others that have no `__init__`, so that a subclass leaves none out.
_WITHOUT_INIT = ("Tensor", "comfy.latent_formats.LatentFormat", "comfy.samplers.Sampler")
_OF_OBJECTS = ("__class__", "__code__", "__dict__", "__closure__", "__globals__", "forward")
_MAKERS = ("FunctionType", "CellType", "CodeType")
_OURS = ("cogvideox", "cogvideox_core")
_SCRIPTS = re.compile(r"\.prototype\.\w+\s*=(?!=)|\b(?:app|api|LiteGraph|LG\w+)(?:\.\w+)+\s*=(?![=>])")


def patches(files: Iterable[Source]) -> list[str]:
    """Every change of another package in Python files, as `path: what`, each once."""
    return sorted({f"{source.path.as_posix()}: {what}" for source in files for what in _patches_in(source)})


def script_patches(root: Path, folder: str) -> list[str]:
    """The same in the browser's scripts: prototypes, and attributes of the frontend's global objects."""
    found = set()
    for path in sorted((root / folder).rglob("*.js")):
        for match in _SCRIPTS.finditer(path.read_text(encoding="utf-8")):
            found.add(f"{path.relative_to(root).as_posix()}: {match.group().rstrip('= ')}")
    return sorted(found)


def _patches_in(source: Source) -> Iterator[str]:
    foreign = _foreign_names(source)
    for node in ast.walk(source.tree):
        for target in _targets(node):
            yield from _patched(target, foreign)
        if isinstance(node, ast.Call):
            yield from _called(node, foreign)
        elif isinstance(node, ast.ClassDef):
            yield from _leaves_out_init(node, foreign)


def _foreign_names(source: Source) -> set[str]:
    """The names that imports of other packages bind, anywhere in the file; the standard library's but for `sys`."""
    found = set()
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            found |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names if _is_foreign(alias.name)}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and _is_foreign(node.module or ""):
            found |= {alias.asname or alias.name for alias in node.names}
    return found


def _is_foreign(module: str) -> bool:
    top = module.partition(".")[0]
    return top == "sys" or not (top in sys.stdlib_module_names or top in _OURS)


def _targets(node: ast.AST) -> list[ast.expr]:
    """What a statement gives a value to, or deletes."""
    if isinstance(node, (ast.Assign, ast.Delete)):
        return [part for target in node.targets for part in getattr(target, "elts", [target])]
    return [node.target] if isinstance(node, (ast.AugAssign, ast.AnnAssign)) else []


def _patched(target: ast.expr, foreign: set[str]) -> Iterator[str]:
    if not isinstance(target, (ast.Attribute, ast.Subscript)):
        return
    root = _root(target)
    is_special = isinstance(target, ast.Attribute) and target.attr in _OF_OBJECTS and root != "self"
    if root in foreign or is_special:
        yield ast.unparse(target)


def _root(node: ast.expr) -> str:
    """The name that a chain of attributes and indices begins with."""
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _called(node: ast.Call, foreign: set[str]) -> Iterator[str]:
    name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
    first = node.args[0] if node.args else None
    if name in _MAKERS:
        yield f"{name}(...)"
    elif name in ("setattr", "delattr") and first is not None and _root(first) in foreign:
        yield f"{name}({ast.unparse(first)}, ...)"
    elif name == "getLogger" and isinstance(first, ast.Constant) and not in_module(str(first.value), _OURS):
        yield f"getLogger({str(first.value)!r})"


def _leaves_out_init(node: ast.ClassDef, foreign: set[str]) -> Iterator[str]:
    named = [ast.unparse(base) for base in node.bases if _root(base) in foreign]
    bases = [base for base in named if base not in _WITHOUT_INIT]
    for method in node.body:
        is_init = isinstance(method, ast.FunctionDef) and method.name == "__init__"
        if bases and is_init and "super().__init__" not in ast.unparse(method):
            yield f"{node.name}.__init__ without {bases[0]}'s"
