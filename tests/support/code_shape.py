"""What can be counted in the source text: import chains, nesting, parameters, lengths, repeats, documented shapes.

Every measure takes parsed files (`Source`) and answers with the places it found, as `path:line what`. Nothing is
imported or run. `tests/figures.py` holds the limits.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

Function = ast.FunctionDef | ast.AsyncFunctionDef
Comprehension = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)

WINDOW = 10  # lines of code that count as a repeat when they occur twice
CALLED_BY_NAME = ("forward", "__call__")  # what a caller of a module's method reads, whatever its name says
# A list in brackets with a letter or an ellipsis in it, and not an index or a type's argument: [B, C, T, H, W], [...].
SHAPE = re.compile(r"(?<![\w\]])\[(?=[^\]]*(?:[A-Za-z]|\.\.\.))[\w\s.,*+/() -]+\](?!\()")


class Source(NamedTuple):
    """A Python file: its path from the repository, its text and its syntax tree."""

    path: Path
    text: str
    tree: ast.Module

    @property
    def module(self) -> str:
        """The dotted name; a package's is its folder's."""
        parts = self.path.with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def at(self, node: ast.AST, what: str) -> str:
        """A place, for a list that people read."""
        return f"{self.path.as_posix()}:{getattr(node, 'lineno', 1)} {what}"


def sources(root: Path, *folders: str) -> list[Source]:
    """The Python files below `folders` of `root`, in order."""
    paths = sorted(path for folder in folders for path in (root / folder).rglob("*.py"))
    texts = [path.read_text(encoding="utf-8") for path in paths]
    return [Source(path.relative_to(root), text, ast.parse(text)) for path, text in zip(paths, texts, strict=True)]


def in_module(name: str, modules: Iterable[str]) -> bool:
    """Whether a dotted name is one of `modules` or inside one."""
    return any(name == module or name.startswith(module + ".") for module in modules)


# ---- imports


def longest_chain(files: Iterable[Source]) -> list[str]:
    """The longest chain of modules of which each imports the next when it is itself imported.

    Raises: ValueError if modules import each other in a circle.
    """
    files = list(files)
    modules = {source.module for source in files}
    arrows = {source.module: imported_modules(source, modules) for source in files}
    entered: list[str] = []

    @cache
    def chain_from(module: str) -> tuple[str, ...]:
        if module in entered:
            raise ValueError("modules import each other: " + " -> ".join([*entered, module]))
        entered.append(module)
        longest = max(map(chain_from, sorted(arrows[module])), key=len, default=())
        entered.pop()
        return (module, *longest)

    return list(max(map(chain_from, sorted(modules)), key=len, default=()))


def imported_modules(source: Source, modules: set[str]) -> set[str]:
    """Those of `modules` that `source` imports when it is imported: not in functions, not for the type checker."""
    found = set()
    for node in _run_at_import(source.tree.body):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & modules
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, source)
            inner = {f"{base}.{alias.name}" for alias in node.names}
            found |= inner & modules
            if inner - modules and base in modules:
                found.add(base)
    return found - {source.module}


def _run_at_import(statements: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    for statement in statements:
        yield statement
        if isinstance(statement, ast.If) and _is_for_type_checker(statement.test):
            yield from _run_at_import(statement.orelse)
        elif not isinstance(statement, Function):
            for name in ("body", "orelse", "finalbody"):
                yield from _run_at_import(getattr(statement, name, []))
            for handler in getattr(statement, "handlers", []):
                yield from _run_at_import(handler.body)


def _is_for_type_checker(test: ast.expr) -> bool:
    return "TYPE_CHECKING" in (getattr(test, "id", ""), getattr(test, "attr", ""))


def _absolute(node: ast.ImportFrom, source: Source) -> str:
    """The dotted name of the module that `node` imports from."""
    if node.level == 0:
        return node.module or ""
    folders = source.path.parent.parts
    kept = folders[: len(folders) - node.level + 1]
    return ".".join([*kept, *([node.module] if node.module else [])])


# ---- functions


class Defined(NamedTuple):
    """A function or method, the classes around it, and its file."""

    source: Source
    node: Function
    owners: tuple[str, ...]

    @property
    def place(self) -> str:
        return self.source.at(self.node, ".".join([*self.owners, self.node.name]))

    @property
    def is_public(self) -> bool:
        """Whether it and every class around it may be used from outside."""
        name = self.node.name
        return not any(owner.startswith("_") for owner in self.owners) and (
            name in CALLED_BY_NAME or not name.startswith("_")
        )


def functions(files: Iterable[Source], inner: bool = True) -> Iterator[Defined]:
    """Every function and method; with `inner`, also those inside functions."""
    for source in files:
        yield from _defined(source, source.tree, (), inner)


def _defined(source: Source, node: ast.AST, owners: tuple[str, ...], inner: bool) -> Iterator[Defined]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function):
            yield Defined(source, child, owners)
            if inner:
                yield from _defined(source, child, (*owners, child.name), inner)
        elif isinstance(child, ast.ClassDef):
            yield from _defined(source, child, (*owners, child.name), inner)
        else:
            yield from _defined(source, child, owners, inner)


def tensor_functions(files: Iterable[Source]) -> list[Defined]:
    """The public functions and methods that take or give a Tensor, by their annotations."""
    return [found for found in functions(files, inner=False) if found.is_public and _has_tensor(found.node)]


def _has_tensor(node: Function) -> bool:
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
    annotations = [node.returns, *(argument.annotation for argument in arguments if argument)]
    return any(re.search(r"\bTensor\b", ast.unparse(annotation)) for annotation in annotations if annotation)


def states_a_shape(node: Function) -> bool:
    """Whether the docstring has a shape in brackets."""
    return bool(SHAPE.search(ast.get_docstring(node) or ""))


def long_signatures(files: Iterable[Source], most: int) -> list[str]:
    """The functions with more than `most` parameters; self and cls do not count, nor do those of `*` and `**`."""
    return [found.place for found in functions(files) if _count_parameters(found.node) > most]


def _count_parameters(node: Function) -> int:
    names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)]
    bound = names[:1] in (["self"], ["cls"])
    return len(names) - bound + len(node.args.kwonlyargs)


def body_lengths(files: Iterable[Source]) -> dict[str, int]:
    """The lines of each function's body that are not blank, from its first statement on, by place."""
    lengths = {}
    for found in functions(files):
        body = found.node.body[1:] if ast.get_docstring(found.node) is not None else found.node.body
        lines = found.source.text.splitlines()[body[0].lineno - 1 : body[-1].end_lineno] if body else []
        lengths[found.place] = sum(bool(line.strip()) for line in lines)
    return lengths


def percentile(values: Iterable[int], share: float) -> int:
    """The smallest value that at least `share` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * round(share * 100) // 100) - 1)] if ordered else 0


# ---- comprehensions and repeats


def nested_comprehensions(files: Iterable[Source]) -> list[str]:
    """Every comprehension inside another one, and every one with several `for`."""
    return [source.at(node, ast.unparse(node)[:60]) for source in files for node in _nested(source.tree, False)]


def _nested(node: ast.AST, within: bool) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        is_one = isinstance(child, Comprehension)
        if is_one and (within or len(child.generators) > 1):
            yield child
        yield from _nested(child, within or is_one)


def repeats(files: Iterable[Source]) -> tuple[list[str], int]:
    """The lines of code in a window of ten that occurs twice, as places, and the number of all lines of code."""
    windows: dict[tuple[str, ...], list[tuple[Source, list[int]]]] = defaultdict(list)
    count = 0
    for source in files:
        numbered = list(code_lines(source))
        count += len(numbered)
        for start in range(len(numbered) - WINDOW + 1):
            part = numbered[start : start + WINDOW]
            windows[tuple(line for _, line in part)].append((source, [number for number, _ in part]))
    found = {
        (source.path.as_posix(), number)
        for places in windows.values()
        if len(places) > 1
        for source, numbers in places
        for number in numbers
    }
    return [f"{path}:{number}" for path, number in sorted(found)], count


def code_lines(source: Source) -> Iterator[tuple[int, str]]:
    """The lines that are neither blank nor comment nor docstring, with their numbers, without indentation."""
    documented = set()
    for node in ast.walk(source.tree):
        if (
            isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
            and ast.get_docstring(node) is not None
        ):
            documented |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    for number, line in enumerate(source.text.splitlines(), start=1):
        if number not in documented and line.strip() and not line.strip().startswith("#"):
            yield number, line.strip()
