"""What the pack uses of ComfyUI, found in its source text and classes; and whether a ComfyUI has it.

A symbol is a dotted path that begins with a module: `comfy.model_patcher.ModelPatcher.clone`, say.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

DOCUMENTED = "comfy_api.latest"  # ComfyUI's public API; it needs no list
COMPANIONS = ("comfy_kitchen", "transformers")  # packages of ComfyUI's requirements that we use beyond their front door
# What variables of these names hold in nodes/host, some in one file only.
RECEIVERS = {
    **dict.fromkeys(("patcher", "clone", "patched", "fresh", "model_patcher"), "comfy.model_patcher.ModelPatcher"),
    "server": "server.PromptServer",
    "guider": "comfy.samplers.CFGGuider",
    "clip": "comfy.sd.CLIP",
    "graph": "comfy_execution.graph.DynamicPrompt",
    "rules": "comfy.model_base.BaseModel",
    "model_config": "comfy.supported_models_base.BASE",
    "latent_format": "comfy.latent_formats.LatentFormat",
    "model_sampling": "comfy.model_sampling.ModelSamplingDiscrete",
}
_IN_FILE = {"clip": "clip.py", "graph": "client.py"}
_OURS = ("rules", "model_config")  # objects of our own classes on ComfyUI's: not all they have is ComfyUI's


def host_modules(comfyui: Path) -> set[str]:
    """Names that begin an import of ComfyUI's own modules."""
    files = {path.stem for path in comfyui.glob("*.py")}
    return files | {path.name for path in comfyui.iterdir() if path.is_dir()} | set(COMPANIONS)


def imported_symbols(path: Path, hosts: set[str]) -> Iterator[tuple[str, int]]:
    """The symbols of ComfyUI's modules that a file names, with the line: of what is imported, its first attribute."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] in hosts:
                    names |= {alias.asname: alias.name} if alias.asname else {alias.name.partition(".")[0]: ""}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").partition(".")[0] in hosts:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                yield f"{node.module}.{alias.name}", node.lineno
    for alias, symbol in _assigned(tree, names):
        names[alias] = symbol
    for node in _whole_chains(tree):
        symbol = _symbol(node, names)
        if symbol and not _is_module(symbol):
            yield symbol.replace(".PromptServer.instance.", ".PromptServer."), node.lineno


def _assigned(tree: ast.Module, names: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Other names for a module, as in `mm = comfy.model_management`, also as one of several names at a time."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            targets, values = (getattr(side, "elts", [side]) for side in (node.targets[0], node.value))
            for target, value in zip(targets, values, strict=False):
                symbol = _symbol(value, names) if isinstance(value, ast.Attribute) else None
                if symbol and isinstance(target, ast.Name) and _is_module(symbol):
                    yield target.id, symbol


def _is_module(symbol: str) -> bool:
    try:
        importlib.import_module(symbol)
    except ImportError:
        return False
    return True


def _whole_chains(tree: ast.Module) -> list[ast.Attribute]:
    """Chains of attributes that are no part of a longer one."""
    chains = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    inner = {id(node.value) for node in chains}
    return [node for node in chains if id(node) not in inner]


def _symbol(node: ast.expr, names: dict[str, str]) -> str | None:
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or node.id not in names:
        return None
    return ".".join([names[node.id] or node.id, *reversed(parts)])


def received_symbols(path: Path) -> Iterator[tuple[str, int]]:
    """Attributes of variables that `RECEIVERS` knows, as symbols of the variable's class."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        name = _receiver(node, path.name)
        if name and isinstance(node, ast.Attribute) and not node.attr.startswith("__"):
            symbol = f"{RECEIVERS[name]}.{node.attr}"
            if name not in _OURS or not missing([symbol]):
                yield symbol, node.lineno


def _receiver(node: ast.AST, file: str) -> str | None:
    """The variable, or attribute of one, whose attribute this is, if it holds an object of ComfyUI."""
    if not isinstance(node, ast.Attribute):
        return None
    holder = node.value
    name = getattr(holder, "id", getattr(holder, "attr", ""))
    is_module = isinstance(holder, ast.Attribute) and getattr(holder.value, "id", "") == "comfy"
    return None if is_module or name not in RECEIVERS or _IN_FILE.get(name, file) != file else name


def inherited_symbols(module: ModuleType, hosts: set[str]) -> Iterator[tuple[str, int]]:
    """For our classes on ComfyUI's: what they replace of the base class, and what they use of it through `self`."""
    for ours in vars(module).values():
        if not inspect.isclass(ours) or ours.__module__ != module.__name__:
            continue
        bases = [base for base in ours.__mro__ if base.__module__.partition(".")[0] in hosts]
        lines, start = inspect.getsourcelines(ours)
        used = {name: start for name in vars(ours)} | dict(_attributes_of_self(lines, start))
        for name, line in used.items():
            base = next((base for base in bases if not name.startswith("__") and has_attribute(base, name)), None)
            if base is not None:
                yield f"{base.__module__}.{base.__qualname__}.{name}", line


def _attributes_of_self(lines: list[str], start: int) -> Iterator[tuple[str, int]]:
    for number, line in enumerate(lines):
        for name in re.findall(r"\b(?:self|super\(\))\.(\w+)", line):
            yield name, start + number


def has_attribute(owner: Any, name: str) -> bool:
    """Whether a class, its instances or a module has an attribute; what `__init__` sets is read in the source."""
    if name in vars(owner) or (not inspect.isclass(owner) and hasattr(owner, name)):
        return True
    if not inspect.isclass(owner):
        return False
    source = inspect.getsource(owner)
    set_there = rf"\b(?:self|{owner.__name__})\.{name}\b[^=\n]*=(?!=)|^    {name}\s*:|register_buffer\(.{name}\b"
    return bool(re.search(set_there, source, re.MULTILINE))


def missing(symbols: Iterable[str]) -> list[str]:
    """Those of the symbols that the ComfyUI on the path has not, each with what was found last."""
    return [f"{symbol} ({fault})" for symbol in symbols if (fault := _fault(symbol))]


def _fault(symbol: str) -> str | None:
    parts = symbol.split(".")
    owner, rest = _module(parts)
    if owner is None:
        return f"no module {parts[0]}"
    for index, name in enumerate(rest):
        owners = owner.__mro__ if inspect.isclass(owner) else [owner]
        if not any(one is not object and _holds(one, name) for one in owners):
            return f"{getattr(owner, '__name__', owner)} has no {name}"
        if index + 1 < len(rest):
            owner = getattr(owner, name)
    return None


def _holds(owner: Any, name: str) -> bool:
    try:
        return has_attribute(owner, name)
    except (OSError, TypeError):  # a class without source text
        return False


def _module(parts: list[str]) -> tuple[Any, list[str]]:
    """The longest part of a path that is a module, and what follows."""
    for end in range(len(parts), 0, -1):
        try:
            return importlib.import_module(".".join(parts[:end])), parts[end:]
        except ImportError:
            continue
    return None, parts
